#!/bin/sh
# A PostgreSQL of one's own for the tests: scripts/postgres.sh start FOLDER | stop FOLDER
# `start` prints what HISTO_TEST_POSTGRES is to be; `stop` deletes the folder. It listens on
# 127.0.0.1 only and asks for no password; never the system's cluster. What follows FOLDER goes to
# the server, such as -c fsync=on: by default it does not wait for the disk, for it is thrown away.
set -eu
do=$1 folder=$2
shift 2

initdb=$(command -v initdb || ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1)
[ -n "$initdb" ] || { echo "postgres: not installed; apt-get install postgresql" >&2; exit 1; }
bin=$(dirname "$initdb")

as_owner() { # PostgreSQL refuses to run as root
    if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

case $do in
start)
    mkdir -m 700 "$folder"
    [ "$(id -u)" != 0 ] || chown postgres "$folder"
    cd "$folder" # the owner may not be allowed to enter where we are
    port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
    # words are sorted as people sort them: what relies on the order of bytes shows
    as_owner "$bin/initdb" --auth=trust --username=postgres --encoding=UTF8 --locale=C.UTF-8 \
        --locale-provider=icu --icu-locale=en-US --no-sync -D "$folder/data" >/dev/null
    as_owner "$bin/pg_ctl" start --wait --silent -D "$folder/data" -l "$folder/log" -o "-h 127.0.0.1 \
        -p $port -k $folder -c max_connections=200 -c fsync=off -c full_page_writes=off $*" >&2
    echo "postgresql+psycopg://postgres@127.0.0.1:$port/postgres"
    ;;
stop)
    cd "$folder"
    as_owner "$bin/pg_ctl" stop --mode=fast --silent -D "$folder/data" >&2
    cd /
    rm -rf "$folder"
    ;;
*)
    echo "postgres: start FOLDER or stop FOLDER, not $do" >&2
    exit 2
    ;;
esac

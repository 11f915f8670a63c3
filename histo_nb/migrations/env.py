"""What Alembic executes to run migrations, on the connection that `upgrade` gives it."""

from alembic import context

from histo_nb.schema import META

context.configure(connection=context.config.attributes["connection"], target_metadata=META)
context.run_migrations()

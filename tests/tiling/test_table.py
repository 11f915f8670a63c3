import pytest

from histo_nb.errors import TableError
from histo_nb.tables import LABELLED_TILES, read_table
from histo_nb.tiling.labels import label_slides
from histo_nb.tiling.table import file_tiles, tile_table_path


def rows_of(slide_id, n, template):
    return template.head(n).assign(slide_id=slide_id, tile_id=[f"{slide_id}/{i}" for i in range(n)])


def test_tiling_one_slide_anew_keeps_the_others(home, make_tiles):
    template = make_tiles(("p", "normal", 9))
    both = [rows_of("S-a", 4, template), rows_of("S-b", 5, template)]
    for rows in both:
        file_tiles(rows, home, slide_ids=[rows.slide_id.iloc[0]])
    file_tiles(rows_of("S-a", 2, template), home, slide_ids=["S-a"])
    table = read_table(tile_table_path(home), LABELLED_TILES)
    assert table.slide_id.value_counts().to_dict() == {"S-b": 5, "S-a": 2}
    file_tiles(rows_of("S-a", 3, template), home)
    assert set(read_table(tile_table_path(home), LABELLED_TILES).slide_id) == {"S-a"}


def test_an_empty_table_is_refused(home, make_tiles):
    empty = make_tiles(("p", "normal", 2)).head(0)
    with pytest.raises(TableError, match="empty"):
        label_slides(home, empty)
    with pytest.raises(TableError, match="empty"):
        file_tiles(empty, home)
    assert not tile_table_path(home).exists()

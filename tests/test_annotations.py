import json

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon

from histo_nb.annotations import (
    Annotation,
    make_feature,
    read_annotations,
    read_geojson,
    write_features,
    write_geojson,
)
from histo_nb.errors import TableError

places = st.floats(-1e6, 1e6)
boxes = st.builds(
    lambda x, y, w, h: shapely.box(x, y, x + w, y + h),
    *(places, places, st.floats(1, 1e5), st.floats(1, 1e5)),
)
rings = st.builds(lambda x, y, r: shapely.Point(x, y).buffer(r), places, places, st.floats(1, 1e4))
donuts = rings.map(lambda ring: ring.difference(shapely.affinity.scale(ring, 0.5, 0.5)))
pairs = boxes.map(lambda box: MultiPolygon([box, shapely.affinity.translate(box, 2e5, 0)]))
annotations = st.builds(
    Annotation,
    boxes | rings | donuts | pairs,
    st.text(),
    st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)


@given(st.lists(annotations, max_size=5))
def test_annotations_survive_their_file_exactly(tmp_path_factory, wanted):
    path = tmp_path_factory.mktemp("annotations") / "a.geojson"
    got = read_geojson(write_geojson(wanted, path))
    assert got == wanted
    assert all(a.outline.equals_exact(b.outline) for a, b in zip(got, wanted, strict=True))


def test_a_file_of_qupath_is_written_back_as_it_was(tmp_path):
    ring = [[0.5, 1], [10, 1], [10, 11.25], [0.5, 1]]
    hole = [[3, 2], [9, 2], [9, 8], [3, 2]]
    feature = {
        "type": "Feature",
        "id": "0f9c",
        "geometry": {"type": "Polygon", "coordinates": [ring, hole]},
        "properties": {
            "objectType": "annotation",
            "name": "edge of the invasion",
            "classification": {"name": "Tumor", "color": [200, 0, 0]},
            "isLocked": True,
            "metadata": {"reader": "A"},
            "measurements": {"Area µm^2": 12.5},
        },
    }
    content = {"type": "FeatureCollection", "features": [feature]}
    (tmp_path / "a.geojson").write_text(json.dumps(content))
    write_geojson(read_geojson(tmp_path / "a.geojson"), tmp_path / "b.geojson")
    assert json.loads((tmp_path / "b.geojson").read_text()) == content


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
geometries = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["Polygon", "MultiPolygon", "Point", "GeometryCollection", ""]),
        "coordinates": anything,
    }
)
properties = st.fixed_dictionaries(
    {"classification": st.fixed_dictionaries({"name": anything}), "measurements": anything}
)
features = st.fixed_dictionaries(
    {"geometry": geometries | anything, "properties": properties | anything}
)


@given(st.lists(features, max_size=2) | anything)
def test_what_is_no_annotation_is_refused_by_name(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("annotations") / "a.geojson"
    path.write_text(json.dumps(content))
    try:
        read = read_geojson(path)
    except TableError as error:
        assert str(path) in str(error)
    else:
        assert all(a.outline.is_valid for a in read)


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Polygon", "coordinates": [[[0, 0], [9, 9], [9, 0], [0, 9], [0, 0]]]},  # a bow tie
        {"type": "Polygon", "coordinates": []},
        {"type": "MultiPolygon", "coordinates": [[[[0, 0], [9, 0], [9, 9], [0, 0]]], []]},
        {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9]]]},  # an open ring
        {"type": "Polygon", "coordinates": [[[0, 0], [float("nan"), 0], [9, 9], [0, 0]]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [10**400, 0], [9, 9], [0, 0]]]},
        {"type": "LineString", "coordinates": [[0, 0], [9, 9]]},
        None,
    ],
)
def test_what_is_no_polygon_is_refused_by_name(tmp_path, geometry):
    properties = {"classification": {"name": "Tumor"}}
    feature = {"geometry": geometry, "properties": properties}
    (tmp_path / "a.geojson").write_text(json.dumps({"features": [feature]}))
    with pytest.raises(TableError, match="feature 0"):
        read_geojson(tmp_path / "a.geojson")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.geojson").write_bytes(content)
    with pytest.raises(TableError, match=r"a\.geojson"):
        read_geojson(tmp_path / "a.geojson")
    with pytest.raises(TableError, match=r"b\.geojson"):
        read_geojson(tmp_path / "b.geojson")


def test_older_measurements_are_read(tmp_path):
    feature = {
        "geometry": shapely.geometry.mapping(shapely.box(0, 0, 1, 1)),
        "properties": {
            "classification": {"name": "Tumor"},
            "measurements": [{"name": "area_mm2", "value": 2.5}],
        },
    }
    (tmp_path / "a.geojson").write_text(json.dumps([feature]))
    assert read_geojson(tmp_path / "a.geojson")[0].measurements == {"area_mm2": 2.5}


@given(st.lists(boxes, max_size=3), st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)))
def test_a_file_counts_from_where_it_says(tmp_path_factory, wanted, origin):
    path = tmp_path_factory.mktemp("annotations") / "a.geojson"
    features = [make_feature(Annotation(box, "Tumor")) for box in wanted]
    write_features(features, path, header={"origin": origin})
    got = [annotation.outline for annotation in read_geojson(path, origin=None)]
    assert got == [shapely.affinity.translate(box, *origin) for box in wanted]
    write_geojson([Annotation(box, "Tumor") for box in wanted], path)  # says nothing: asked
    assert [annotation.outline for annotation in read_geojson(path, origin=origin)] == got
    with pytest.raises(TableError, match="annotation_origin='scan'"):
        read_geojson(path, origin=None)


@pytest.mark.parametrize("origin", [None, [], [1], [1, 2, 3], [0.5, 1], ["0", "0"], [0, 1 << 40]])
def test_an_origin_that_is_none_is_refused(tmp_path, origin):
    path = write_features([], tmp_path / "a.geojson", header={"origin": origin})
    with pytest.raises(TableError, match="does not say where its 0, 0 lies"):
        read_geojson(path)


def test_what_json_cannot_say_is_not_written(tmp_path):
    with pytest.raises(TableError, match="not finite"):
        write_features([{"a": float("inf")}], tmp_path / "a.geojson", header={})
    assert [*tmp_path.iterdir()] == []


# ------------------------------------------------------------------------------------- ASAP
def asap(*entries: str) -> str:
    return (
        "<ASAP_Annotations><Annotations>" + "".join(entries) + "</Annotations>"
        '<AnnotationGroups><Group Name="Tumor" PartOfGroup="None"/></AnnotationGroups>'
        "</ASAP_Annotations>"
    )


def asap_entry(points, *, kind="Polygon", group="Tumor") -> str:
    coordinates = "".join(
        f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in reversed([*enumerate(points)])
    )
    return (
        f'<Annotation Name="A" Type="{kind}" PartOfGroup="{group}">'
        f"<Coordinates>{coordinates}</Coordinates></Annotation>"
    )


SQUARE = [(0, 0), (10, 0), (10, 10), (0, 10)]


@given(st.lists(boxes, max_size=4))
def test_outlines_of_asap_are_read_exactly(tmp_path_factory, wanted):
    path = tmp_path_factory.mktemp("asap") / "a.xml"
    path.write_text(asap(*(asap_entry(box.exterior.coords[:-1]) for box in wanted)))
    got = read_annotations(path)
    assert [a.label for a in got] == ["Tumor"] * len(wanted)
    assert all(a.outline.equals_exact(box) for a, box in zip(got, wanted, strict=True))


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>' + asap()
OUTSIDE = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + asap()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (BOMB, "declares entities"),
        (OUTSIDE, "declares entities"),
        ("", "not an XML file"),
        ("<ASAP_Annotations>", "not an XML file"),
        ("<svg/>", "no ASAP annotations"),
        (asap(asap_entry(SQUARE, kind="Dot")), "annotation 0 is a Dot"),
        (asap(asap_entry(SQUARE), asap_entry(SQUARE, group="None")), "annotation 1 is part of no"),
        (asap(asap_entry(SQUARE[:2])), "no polygon"),
        (asap(asap_entry([(0, 0), (9, 9), (9, 0), (0, 9)])), "no valid polygon"),
        (asap(asap_entry([("NaN", 0), (9, 9), (9, 0), (0, 9)])), "no"),
        (asap(asap_entry([("x", 0), (9, 9), (9, 0)])), "no polygon"),
    ],
)
def test_what_asap_would_not_write_is_refused_by_name(tmp_path, content, said):
    path = tmp_path / "a.xml"
    path.write_text(content)
    with pytest.raises(TableError, match=said):
        read_annotations(path)

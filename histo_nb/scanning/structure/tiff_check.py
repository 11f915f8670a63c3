"""Is this TIFF file whole, and may a reader be let near it?"""

from histo_nb.scanning.structure.bytefile import ByteFile
from histo_nb.scanning.structure.tiff_damage import ZeroJudge
from histo_nb.scanning.structure.tiff_images import read_images
from histo_nb.scanning.structure.tiff_layout import check_layout
from histo_nb.scanning.structure.tiff_segments import check_segments
from histo_nb.scanning.structure.tiff_walk import walk_tiff


def check_tiff(file: ByteFile, *, allow_black: bool) -> None:
    """Raise unless a TIFF file is whole and asks no more of a reader than a slide does.

    Raises
    ------
    IncompleteError
        It is cut off, damaged, or has a part that was never written.
    SlideError
        It claims what no slide has.
    """
    directories = walk_tiff(file)
    images = read_images(file, directories)
    check_layout(file, directories, images)
    for image in images:
        check_segments(file, image)
    ZeroJudge(file, directories, images, allow_black=allow_black).check()

"""The paper label of a virtual glass slide, and the pictures a scanner takes of it.

It names a patient as real ones do, though a made-up one: nothing may ever show it.
"""

import zlib

import cv2
import numpy as np

from histo_nb.errors import ScannerError
from histo_nb.scanning.virtual.glass import Glass

LABEL_PX = 400  # side of the label's picture
MACRO_PX = (1200, 400)  # width, height of the overview camera's picture
MODULE_PX = 6  # of the QR code
MARGIN_PX = 30
ZOOMS = (1.0, 0.5, 0.75, 1.5)  # the detector misses one clean code in 400 at a single one
NAMES = ("MUSTERMANN, ERIKA", "DOE, JANE", "ROSSI, MARIO", "NOVAK, JAN", "PEREZ, ANA", "LI, WEI")
INK, PAPER, STAGE = (20, 20, 20), (250, 250, 250), (235, 235, 235)


def patient_name(glass: Glass) -> str:
    """Return the made-up name on a glass's label, the same for one patient."""
    return NAMES[zlib.crc32(glass.patient_id.encode()) % len(NAMES)]


def take_label(glass: Glass) -> np.ndarray:
    """Return the picture of a glass's label, (400, 400, 3) uint8 RGB: name and barcode."""
    label = np.full((LABEL_PX, LABEL_PX, 3), PAPER, np.uint8)
    for row, text in ((60, patient_name(glass)), (105, glass.barcode)):
        cv2.putText(label, text, (20, row), cv2.FONT_HERSHEY_SIMPLEX, 0.8, INK, 2, cv2.LINE_AA)
    code = cv2.QRCodeEncoder.create().encode(glass.barcode)
    code = cv2.resize(code, None, fx=MODULE_PX, fy=MODULE_PX, interpolation=cv2.INTER_NEAREST)
    top, left = LABEL_PX - len(code) - 40, (LABEL_PX - len(code)) // 2
    label[top : top + len(code), left : left + len(code)] = code[..., None]
    return label


def decode_label(label: np.ndarray) -> str:
    """Return the barcode on the picture of a label.

    Raises
    ------
    ScannerError
        There is none to be read (fault "barcode").
    """
    for zoom in ZOOMS:
        seen = cv2.resize(label, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
        if barcode := cv2.QRCodeDetector().detectAndDecode(seen)[0]:
            return str(barcode)
    raise ScannerError("the label's barcode cannot be read; clean the label", fault="barcode")


def take_macro(label: np.ndarray, overview: np.ndarray) -> np.ndarray:
    """Return the overview camera's picture, (400, 1200, 3) uint8 RGB: label left, tissue right."""
    macro = np.full((MACRO_PX[1], MACRO_PX[0], 3), STAGE, np.uint8)
    macro[:, :LABEL_PX] = label
    room = MACRO_PX[0] - LABEL_PX - 2 * MARGIN_PX, MACRO_PX[1] - 2 * MARGIN_PX
    scale = min(room[0] / overview.shape[1], room[1] / overview.shape[0])
    size = [max(round(side * scale), 1) for side in overview.shape[1::-1]]
    small = cv2.resize(overview, size, interpolation=cv2.INTER_AREA)
    left, top = LABEL_PX + MARGIN_PX, MARGIN_PX
    macro[top : top + size[1], left : left + size[0]] = small
    return macro

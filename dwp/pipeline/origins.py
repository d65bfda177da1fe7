"""Origin and licence of source data and of published networks, for the cards of the collection."""

from collections.abc import Iterable
from dataclasses import dataclass

from dwp.errors import InputError

LICENCES = {
    "glyphs": (
        "rendered by this library with the fonts of Matplotlib: DejaVu (Bitstream Vera licence), "
        "STIX (SIL Open Font License) and Computer Modern (BaKoMa licence)"
    ),
    "notmnist": (
        "no licence is stated; letters from publicly available fonts, collected by Yaroslav Bulatov and "
        "published in MNIST's format with his permission (github.com/davidflanagan/notMNIST-to-MNIST)"
    ),
}
"""Origin and licence of the source data, by name of the data set."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Published networks.

    Attributes:
        prefix: first part of the names of their priors.
        name: the networks.
        licence: origin and licence of the networks.
        data: the data that they were trained on.
        data_licence: origin and licence of the data.
        files: SHA-256 of each file, by name.
        command: command that puts the files where the configuration expects them.
    """

    prefix: str
    name: str
    licence: str
    data: str
    data_licence: str
    files: dict[str, str]
    command: str


PUBLISHED = (
    Networks(
        prefix="ppocr",
        name=(
            "PP-OCRv4 mobile text detection and recognition and PP-OCR mobile v2.0 text direction, in ONNX. "
            "Of their 3x3 kernels, 11640 are in dense convolutions, nearly all of the detection network, and "
            "832 in depthwise ones, whose norms are larger. Some batch normalisations are folded into the "
            "weights"
        ),
        licence=(
            "PaddlePaddle authors (Baidu), Apache-2.0 (github.com/PaddlePaddle/PaddleOCR); converted by "
            "RapidAI for the wheel rapidocr_onnxruntime 1.4.4, whose metadata state Apache-2.0 and which has "
            "no licence file"
        ),
        data="photographs of text",
        data_licence=(
            "the images are not published; by the authors' account, they are from public data sets and their "
            "own collection, and for earlier versions also synthetic"
        ),
        files={
            "ch_PP-OCRv4_det_infer.onnx": "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
            "ch_PP-OCRv4_rec_infer.onnx": "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
            "ch_ppocr_mobile_v2.0_cls_infer.onnx": (
                "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"
            ),
        },
        command="unzip rapidocr_onnxruntime-1.4.4-py3-none-any.whl 'rapidocr_onnxruntime/models/*'",
    ),
)
"""Published networks that a prior of the collection is fitted to."""


def published(checksums: Iterable[str]) -> Networks:
    """Return the published networks whose files have these SHA-256, in any order.

    Raises:
        InputError: there are none in `PUBLISHED`.
    """
    found = sorted(checksums)
    for networks in PUBLISHED:
        if sorted(networks.files.values()) == found:
            return networks
    raise InputError(
        "collection: the files in kernels.files are not of known networks; add their origin to PUBLISHED"
    )

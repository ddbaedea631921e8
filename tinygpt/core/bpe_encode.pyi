from typing import Self

import numpy as np
import numpy.typing as npt
from typing_extensions import disjoint_base

def unicode_version() -> str: ...
def classes(first: int, stop: int) -> bytes: ...
def word_ends(text: bytes, pattern: str) -> list[int]: ...
def join(ids: npt.NDArray[np.int32], pieces: bytes, starts: npt.NDArray[np.int64]) -> bytes: ...

@disjoint_base
class Cache: ...

@disjoint_base
class Encoder:
    def __new__(
        cls,
        pattern: str,
        byte_ids: npt.NDArray[np.int32],
        merges: npt.NDArray[np.int32],
        whole: list[bytes] | None = None,
        whole_ids: npt.NDArray[np.int32] | None = None,
    ) -> Self: ...
    def encode(self, text: bytes, out: npt.NDArray[np.int32], cache: Cache) -> int: ...

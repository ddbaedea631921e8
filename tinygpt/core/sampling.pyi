from typing import Self

import numpy as np
import numpy.typing as npt
from typing_extensions import disjoint_base

def set_isa(name: str) -> None: ...

@disjoint_base
class Chain:
    @property
    def counts(self) -> bool: ...
    def __new__(
        cls,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repetition: float,
        presence: float,
        frequency: float,
        rows: int,
    ) -> Self: ...
    def start(self, tokens: npt.NDArray[np.int64]) -> None: ...
    def draw(self, logits: npt.NDArray[np.float32], numbers: list[float], tokens: npt.NDArray[np.int32]) -> None: ...
    def probabilities(self, logits: npt.NDArray[np.float32], row: int, out: npt.NDArray[np.float64]) -> None: ...

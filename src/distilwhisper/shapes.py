"""Types of tensors with their axes, as jaxtyping has them; where it is missing they say nothing.

Only tests check shapes, so that only they need jaxtyping: ``Float[Tensor, "batch tokens"]`` is else
``Tensor``.
"""

from typing import TYPE_CHECKING, Any

try:
    from jaxtyping import Bool, Float, Float64, Int, Int64
except ImportError:
    if not TYPE_CHECKING:

        class Bool:
            """Any of the types: what stands in the brackets first."""

            def __class_getitem__(cls, of: tuple[Any, str]) -> Any:
                return of[0]

        Float = Float64 = Int = Int64 = Bool

__all__ = ["Bool", "Float", "Float64", "Int", "Int64"]

"""How ids are raised so that PostgreSQL starts afterwards: tried on it, and none of this is in its errors."""

import pytest

from ledger_service.domain.transaction_ids import how_to_raise


@pytest.mark.parametrize(
    ("above", "epoch", "number"),
    [
        (3, 0, 1 << 20),
        ((1 << 20) - 1, 0, 1 << 20),
        (1 << 20, 0, 2 << 20),
        ((1 << 32) - 1, 1, 1 << 20),  # 0 stands for no transaction
        (9_000_000_000, 2, 411_041_792),
    ],
)
def test_the_next_id_is_the_first_of_a_file_and_above(above: int, epoch: int, number: int) -> None:
    assert f"--epoch={epoch} --next-transaction-id={number} " in how_to_raise(above)

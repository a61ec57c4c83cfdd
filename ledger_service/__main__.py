import gc

from ledger_service.arrow_start import lean_arrow

lean_arrow()
# What imports make stays: to look at all of it again and again for what may go is a sixth of a start. main() sets
# what holds from then on.
gc.set_threshold(50_000, 20, 20)

from ledger_service.main import main  # noqa: E402  Arrow comes with it

main()

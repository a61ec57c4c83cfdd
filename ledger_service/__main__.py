from ledger_service.arrow_start import lean_arrow

lean_arrow()

from ledger_service.main import main  # noqa: E402  Arrow comes with it

main()

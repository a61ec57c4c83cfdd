from ledger_service.main import main

main()

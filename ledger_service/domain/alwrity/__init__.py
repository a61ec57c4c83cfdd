"""What ALwrity's subscription tables mean to the ledger. Source: github.com/AJaySi/ALwrity, backend/models and
backend/services/subscription."""

"""FOCUS, the FinOps Open Cost and Usage Specification: the columns of our data set.

``focus_1_2.json`` beside this has the specification's own list of columns, which a test holds this one against.
"""

from typing import Final

from contracts.exports import Column, ColumnType

VERSION: Final = "1.2"
#: Who bills, unless a setting says so.
BILLING_ACCOUNT_ID: Final = "usage-ledger"

_T, _D, _M, _J = ColumnType.TEXT, ColumnType.DECIMAL, ColumnType.MOMENT, ColumnType.JSON

#: Conditional columns that are missing are about what there is not here: regions and zones, capacity reservations,
#: commitment discounts, a second currency, several types of accounts; and unit prices, as what an operation cost is
#: what was billed for it, and no multiple of a list price that holds to the last digit.
FOCUS_COLUMNS: Final = (
    Column("BilledCost", _D), Column("BillingAccountId", _T, repeats=True),
    Column("BillingAccountName", _T, repeats=True), Column("BillingCurrency", _T, repeats=True),
    Column("BillingPeriodEnd", _M, repeats=True), Column("BillingPeriodStart", _M, repeats=True),
    Column("ChargeCategory", _T, repeats=True), Column("ChargeClass", _T, repeats=True),
    Column("ChargeDescription", _T, repeats=True), Column("ChargeFrequency", _T, repeats=True),
    Column("ChargePeriodEnd", _M, repeats=True), Column("ChargePeriodStart", _M, repeats=True),
    Column("ConsumedQuantity", _D), Column("ConsumedUnit", _T, repeats=True), Column("ContractedCost", _D),
    Column("EffectiveCost", _D), Column("InvoiceIssuerName", _T, repeats=True), Column("ListCost", _D),
    Column("PricingCategory", _T, repeats=True), Column("PricingQuantity", _D),
    Column("PricingUnit", _T, repeats=True), Column("ProviderName", _T, repeats=True),
    Column("PublisherName", _T, repeats=True), Column("ResourceId", _T), Column("ResourceName", _T, repeats=True),
    Column("ResourceType", _T, repeats=True), Column("ServiceCategory", _T, repeats=True),
    Column("ServiceName", _T, repeats=True), Column("ServiceSubcategory", _T, repeats=True),
    Column("SkuId", _T, repeats=True), Column("SkuMeter", _T, repeats=True),
    Column("SkuPriceDetails", _J, repeats=True), Column("SkuPriceId", _T, repeats=True),
    Column("SubAccountId", _T, repeats=True), Column("SubAccountName", _T, repeats=True), Column("Tags", _J),
    # Ours. EntryId is the row's own id in the usage log; Calls, Units and Failures are what it counts there.
    Column("x_AdjustmentKind", _T, repeats=True), Column("x_ApiKeyId", _T, repeats=True),
    Column("x_Calls", ColumnType.INTEGER), Column("x_EntryId", _T), Column("x_Failures", ColumnType.INTEGER),
    Column("x_Model", _T, repeats=True), Column("x_OccurredAt", _M), Column("x_Operation", _T, repeats=True),
    Column("x_Outcome", _T, repeats=True), Column("x_ProjectId", _T, repeats=True), Column("x_RecordedAt", _M),
    Column("x_Units", ColumnType.INTEGER), Column("x_UserId", _T, repeats=True),
)  # fmt: skip

-- name: focus
-- Rows of the FOCUS data set, texts as the specification wants them. What an adjustment takes back, or rates anew, of an
-- operation is usage; a free one that grants money and nothing else is a credit; all others are adjustments. It corrects
-- something in the specification's sense where that had been closed with its month. Nothing begins with a character
-- that a spreadsheet takes for a formula.
select (cost_nanos * 0.000000001) as "BilledCost",
       coalesce(nullif(current_setting('ledger.billing_account_id', true), ''), 'usage-ledger') as "BillingAccountId",
       coalesce(nullif(current_setting('ledger.billing_account_id', true), ''), 'usage-ledger') as "BillingAccountName",
       'USD' as "BillingCurrency",
       to_char(period + interval '1 month', 'YYYY-MM-DD"T00:00:00Z"') as "BillingPeriodEnd",
       to_char(period, 'YYYY-MM-DD"T00:00:00Z"') as "BillingPeriodStart",
       category as "ChargeCategory",
       case when outcome = 'adjustment' and booked_period is not null then 'Correction' end as "ChargeClass",
       case when outcome = 'adjustment' then kind || ': ' || (adjustment ->> 'reason')
            else operation || ' with ' || model || ' at ' || provider || case outcome when 'failed' then ', failed' else '' end
       end as "ChargeDescription",
       case when category = 'Usage' then 'Usage-Based' else 'One-Time' end as "ChargeFrequency",
       to_char(occurred_at + interval '1 hour', 'YYYY-MM-DD"T"HH24":00:00Z"') as "ChargePeriodEnd",
       to_char(occurred_at, 'YYYY-MM-DD"T"HH24":00:00Z"') as "ChargePeriodStart",
       case when category = 'Usage' then units end as "ConsumedQuantity",
       case when category = 'Usage' then 'Units' end as "ConsumedUnit",
       (cost_nanos * 0.000000001) as "ContractedCost", (cost_nanos * 0.000000001) as "EffectiveCost",
       issuer as "InvoiceIssuerName", (cost_nanos * 0.000000001) as "ListCost",
       case when category = 'Usage' then 'Standard' end as "PricingCategory",
       case when category <> 'Usage' then null when outcome = 'failed' and cost_nanos <> 0 then quantity
            else units end as "PricingQuantity",
       case when category = 'Usage' then 'Units' end as "PricingUnit",
       issuer as "ProviderName", issuer as "PublisherName", resource_id as "ResourceId", null as "ResourceName",
       case when resource_id is not null then operation end as "ResourceType",
       case when about_nothing then 'Other' else 'AI and Machine Learning' end as "ServiceCategory",
       operation as "ServiceName",
       case when about_nothing then 'Other (Other)' else 'Generative AI' end as "ServiceSubcategory",
       sku as "SkuId", case when sku is not null then operation end as "SkuMeter", null as "SkuPriceDetails",
       sku as "SkuPriceId", account_id as "SubAccountId", account_id as "SubAccountName",
       -- Tags are flat, and each is there once: of several the last, as elsewhere in JSON.
       case when metadata is not null then (
           select with_nul(json_object_agg(key, case when json_typeof(value) in ('object', 'array')
                                                     then to_json(value::text) else value end))
           from (select distinct on (key) key, value
                 from json_each(without_nul(metadata)) with ordinality e (key, value, place)
                 order by key, place desc) tags
       ) end as "Tags",
       kind as "x_AdjustmentKind", api_key_id as "x_ApiKeyId", counted_calls(outcome, adjusted_calls) as "x_Calls",
       operation_id as "x_EntryId", counted_failures(outcome, adjusted_failures) as "x_Failures", model as "x_Model",
       to_char(occurred_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as "x_OccurredAt", operation as "x_Operation",
       outcome as "x_Outcome", project_id as "x_ProjectId",
       to_char(recorded_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as "x_RecordedAt", units as "x_Units",
       user_id as "x_UserId"
from (
    select u.*, coalesce(booked_period, own_period(occurred_at)) as period, counted_units(outcome, quantity) as units,
           k.kind, k.about_nothing, c.category,
           case when k.about_nothing then coalesce(nullif(current_setting('ledger.billing_account_id', true), ''), 'usage-ledger')
                else provider end as issuer,
           case when outcome = 'adjustment' then corrects else operation_id end as resource_id,
           case when c.category = 'Usage' then provider || '/' || operation || '/' || model end as sku
    from usage_log u
    cross join lateral (
        select adjustment ->> 'kind' as kind, outcome = 'adjustment' and operation = 'adjustment' as about_nothing
    ) k
    cross join lateral (
        select case when outcome <> 'adjustment' or (k.kind in ('void', 'rerate') and not k.about_nothing) then 'Usage'
                    when k.kind = 'adjustment' and cost_nanos < 0 and quantity = 0 and adjusted_calls = 0
                         and adjusted_failures = 0 then 'Credit'
                    else 'Adjustment' end as category
    ) c
) u
order by account_id, occurred_at, operation_id

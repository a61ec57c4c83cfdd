-- What readers of the database may see. `ledger migrate` grants it anew each time, so that what stands here is what
-- holds, whatever was granted by hand; who the roles are is in deploy/postgres/roles.sql.

-- Finance: what was used, by whom, for how much, under which terms. Neither tokens, keys nor seals, nor the log itself.
-- A later schema with views for finance is granted here, too.
create function let_report(reader name) returns void
    language plpgsql
as $$
begin
    execute format('revoke all on all tables in schema %I from %I', current_schema(), reader);
    execute format('grant usage on schema %I to %I', current_schema(), reader);
    execute format('grant select on usage_log, usage_summary, accounts, plans, prices, price_catalogue, limit_overrides, '
                   'credit_grants to %I', reader);
end
$$;
revoke all on function let_report from public;
comment on function let_report is 'Gives a role what finance may read, and no more; `ledger migrate` calls it. Safe to call again.';

-- An auditor: all that `ledger verify` and `ledger seals verify` read; no keys, and no hashes of tokens.
create function let_audit(reader name) returns void
    language plpgsql
as $$
begin
    execute format('revoke all on all tables in schema %I from %I', current_schema(), reader);
    execute format('grant usage on schema %I to %I', current_schema(), reader);
    execute format('grant select on all tables in schema %I to %I', current_schema(), reader);
    execute format('revoke all on signing_keys, service_tokens from %I', reader);
end
$$;
revoke all on function let_audit from public;
comment on function let_audit is 'Gives a role what an auditor reads, and no more; `ledger migrate` calls it. Safe to call again.';

# Once, in a new database: the roles of deploy/postgres/roles.sql with their passwords, and what is about safety in the
# server's settings. PostgreSQL's image runs this before it listens to anybody (in its own shell: no `exit` here).

# Where the server's socket is, as the server says.
ledger_sql() { psql -X -q -v ON_ERROR_STOP=1 -h "$(sed -n 5p "$PGDATA/postmaster.pid")" -U postgres -d ledger "$@"; }

ledger_sql -f /etc/postgresql/roles.sql
for role in ledger_owner ledger_service finance auditor; do
    # psql reads the password itself, so that it is in no list of processes.
    printf '%s\n' "\\set password \`cat /run/secrets/password_$role\`" "alter role $role password :'password';" | ledger_sql
done

if [ "${POSTGRES_TLS:-on}" = on ]; then
    echo "include '/etc/postgresql/postgresql.conf'" >>"$PGDATA/postgresql.conf"
else
    grep -v '^ssl' /etc/postgresql/postgresql.conf >>"$PGDATA/postgresql.conf"
fi

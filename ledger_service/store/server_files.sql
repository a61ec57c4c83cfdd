-- name: folder
-- Where the server keeps its files, if our role may know that, and which of its processes answers; whether it is one of
-- this machine is not for the server to say, but from another address it is not.
select case when pg_has_role(current_user, 'pg_read_all_settings', 'usage') then current_setting('data_directory') end
           as folder,
       pg_backend_pid() as process_id,
       coalesce(inet_server_addr() = inet_client_addr(), true) as is_one_address

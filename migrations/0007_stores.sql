set lock_timeout = '5s';

-- Blobs that will be deleted after delete_after: an upload stands here until a row refers to it, a discarded blob until it is gone.
create table blob_garbage (
    key text primary key,
    org_id uuid,
    delete_after timestamptz not null
);
create index blob_garbage_due on blob_garbage (delete_after);
select probity_tenant_table('blob_garbage');

-- Secrets that are read back, each sealed for its place (kernel/sealed.py). key_id names the master key that wraps it. A null org_id is
-- the server's own; only the system role sees those.
create table sealed_values (
    id uuid primary key,
    org_id uuid,
    purpose text not null constraint sealed_values_purpose check (length(purpose) between 1 and 100),
    key_id bytea not null,
    sealed bytea not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index sealed_values_by_org on sealed_values (org_id);
create index sealed_values_by_key on sealed_values (key_id);
select probity_tenant_table('sealed_values');

-- Mail, written in the transaction of what it tells. Its text may carry a sign-in link, so it is sealed, and forgotten once delivered.
-- 'held': no mail server is configured; it stays in the development mailbox.
create table mail_outbox (
    id uuid primary key,
    org_id uuid,
    kind text not null constraint mail_outbox_kind check (length(kind) between 1 and 100),
    recipient text not null constraint mail_outbox_recipient check (length(recipient) between 3 and 254),
    subject text not null constraint mail_outbox_subject check (length(subject) between 1 and 200),
    sealed_id uuid references sealed_values on delete set null,
    state text not null default 'queued' constraint mail_outbox_state check (state in ('queued', 'held', 'sent', 'failed')),
    attempts integer not null default 0,
    last_error text,
    created_at timestamptz not null default now(),
    sent_at timestamptz
);
create index mail_outbox_by_org on mail_outbox (org_id, created_at desc, id desc);
create index mail_outbox_by_age on mail_outbox (created_at, id);
create index mail_outbox_by_sealed on mail_outbox (sealed_id);
select probity_tenant_table('mail_outbox');

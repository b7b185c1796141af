set lock_timeout = '5s';

-- A program that runs on somebody's machine and acts for one organization. Its one credential is kept as SHA-256 of its text.
-- Columns that heartbeats write are in no index, so that a heartbeat stays within its page.
create table agents (
    id uuid primary key,
    org_id uuid not null references organizations,
    name text not null constraint agents_name_length check (length(name) between 1 and 200),
    scope jsonb not null default '{}' constraint agents_scope check (jsonb_typeof(scope) = 'object'),
    status text not null constraint agents_status check (status in ('enrolled', 'active', 'stale', 'error', 'disabled', 'revoked')),
    secret_hash bytea constraint agents_secret_hash check (length(secret_hash) = 32),
    public_key bytea constraint agents_public_key check (length(public_key) = 32),
    public_key_algorithm text constraint agents_public_key_algorithm check (public_key_algorithm in ('x25519')),
    capabilities text[] not null default '{}',
    tags text[] not null default '{}',
    hostname text,
    os text,
    arch text,
    agent_version text,
    cluster_name text,
    provider_type text,
    region text,
    public_key_fingerprint text,
    last_status text,
    last_error text,
    last_seen_at timestamptz,
    enrollment_token_id uuid,
    disabled_at timestamptz,
    revoked_at timestamptz,
    revoked_by text,
    revoked_reason text,
    created_at timestamptz not null,
    constraint agents_org_id unique (org_id, id),
    constraint agents_key_has_algorithm check ((public_key is null) = (public_key_algorithm is null)),
    constraint agents_revoked check ((status = 'revoked') = (revoked_at is not null))
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- A revoked agent's name is free again.
create unique index agents_name on agents (org_id, name) where revoked_at is null;
create index agents_by_age on agents (org_id, created_at, id);
select probity_tenant_table('agents');

-- What a machine presents once to become an agent. Kept as SHA-256 of its text.
create table enrollment_tokens (
    id uuid primary key,
    org_id uuid not null references organizations,
    name text constraint enrollment_tokens_name_length check (length(name) between 1 and 200),
    token_hash bytea not null constraint enrollment_tokens_hash check (length(token_hash) = 32),
    tags text[] not null default '{}',
    max_uses integer not null default 1 constraint enrollment_tokens_max_uses check (max_uses between 1 and 100000),
    uses integer not null default 0,
    expires_at timestamptz not null,
    last_used_at timestamptz,
    revoked_at timestamptz,
    revoked_by text,
    created_by text not null,
    created_at timestamptz not null,
    constraint enrollment_tokens_secret unique (token_hash),
    constraint enrollment_tokens_uses check (uses between 0 and max_uses)
);
create index enrollment_tokens_by_age on enrollment_tokens (org_id, id);
select probity_tenant_table('enrollment_tokens');

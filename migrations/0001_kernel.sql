set lock_timeout = '5s';

-- The organizations that the present transaction acts for; empty unless `set local probity.org_ids` was said.
create function probity_orgs() returns uuid[]
    language sql stable parallel safe
    as $$ select coalesce(nullif(current_setting('probity.org_ids', true), ''), '{}')::uuid[] $$;

-- Put a table under row-level security: rows of the transaction's organizations only, for every role that does not bypass it,
-- the owner included.
create function probity_tenant_table(target regclass) returns void
    language plpgsql
    as $$
begin
    execute format('alter table %s enable row level security', target);
    execute format('alter table %s force row level security', target);
    execute format(
        'create policy tenant_isolation on %s using (org_id = any ((select probity_orgs())::uuid[]))'
        ' with check (org_id = any ((select probity_orgs())::uuid[]))', target);
end
$$;

-- The one queue. lane 'server': background tasks of the server (org_id may be null). lane 'agent': jobs that an agent leases.
create table jobs (
    id uuid primary key,
    org_id uuid,
    lane text not null constraint jobs_lane check (lane in ('agent', 'server')),
    kind text not null constraint jobs_kind check (length(kind) between 1 and 100),
    payload jsonb not null default '{}',
    agent_scope jsonb not null default '{}',
    agent_id uuid,
    tags text[] not null default '{}',
    capability text,
    priority integer not null default 0,
    state text not null default 'queued'
        constraint jobs_state check (state in ('queued', 'claimed', 'succeeded', 'failed', 'expired', 'cancelled')),
    run_at timestamptz not null default now(),
    correlation_id uuid not null,
    request_id uuid,
    run_id uuid,
    claimed_by uuid,
    claimed_at timestamptz,
    claim_expires_at timestamptz,
    cancel_requested_at timestamptz,
    attempt integer not null default 0,
    max_attempts integer not null default 3 constraint jobs_max_attempts check (max_attempts between 1 and 1000),
    timeout_s integer not null default 3600 constraint jobs_timeout check (timeout_s between 1 and 604800),
    reason_code text,
    error text,
    result jsonb,
    dedupe_key text,
    created_by text not null default 'system',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    finished_at timestamptz,
    constraint jobs_agent_lane_has_org check (lane = 'server' or org_id is not null),
    constraint jobs_claimed_has_lease check (state <> 'claimed' or (claimed_by is not null and claim_expires_at is not null))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- A claim looks at its agent's own jobs first, then at those for anybody, one capability at a time: jobs that nobody here can do cost nothing.
create index jobs_pinned on jobs (org_id, agent_id, priority desc, run_at, id)
    where lane = 'agent' and state = 'queued' and agent_id is not null;
create index jobs_open on jobs (org_id, coalesce(capability, ''), priority desc, run_at, id)
    where lane = 'agent' and state = 'queued' and agent_id is null;
-- Tasks have no priority: the index starts with the time, so tasks of the future cost the claim nothing.
create index jobs_server_ready on jobs (run_at, id) where lane = 'server' and state = 'queued';
create index jobs_leased on jobs (lane, claim_expires_at) where state = 'claimed';
create index jobs_by_org on jobs (org_id, created_at desc, id desc);
create index jobs_by_run on jobs (run_id) where run_id is not null;
create index jobs_done on jobs (finished_at) where lane = 'server' and state in ('succeeded', 'cancelled');
create index jobs_failed on jobs (finished_at desc) where lane = 'server' and state = 'failed';
-- Only what still waits is a duplicate: work that already runs may have read the state from before the change that asks again.
create unique index jobs_dedupe on jobs (kind, org_id, dedupe_key) nulls not distinct where dedupe_key is not null and state = 'queued';

select probity_tenant_table('jobs');
-- Server tasks belong to no transaction's organization set; a service may add one for its own organization or for none.
create policy tasks_of_the_server on jobs for insert with check (lane = 'server' and (org_id is null or org_id = any ((select probity_orgs())::uuid[])));

-- Periodic work: a row with a next time, claimed like a task, so two servers never both fire it.
create table periodic_tasks (
    name text primary key,
    every_s double precision not null constraint periodic_tasks_every check (every_s > 0),
    next_at timestamptz not null default now(),
    last_started_at timestamptz
);

set lock_timeout = '5s';

-- A run: one execution of a set of cases. `last_seq` numbers its events without a gap; whoever appends holds the row until commit.
-- `agent_id` is the agent that carries it; it is kept when the agent is gone, because it is evidence.
create table runs (
    id uuid primary key,
    org_id uuid not null references organizations,
    run_month date not null constraint runs_month_first check (extract(day from run_month) = 1),
    number bigint not null constraint runs_number_positive check (number > 0),
    project_id uuid,
    kind text not null constraint runs_kind check (kind in ('command', 'external', 'import')),
    name text not null constraint runs_name_length check (length(name) between 1 and 200),
    state text not null constraint runs_state check (state in ('queued', 'running', 'passed', 'failed', 'error', 'aborted')),
    reason_code text constraint runs_reason_code_length check (length(reason_code) between 1 and 100),
    trigger text not null constraint runs_trigger_length check (length(trigger) between 1 and 50),
    job_id uuid,
    agent_id uuid,
    command text[],
    exit_code integer,
    created_by text not null,
    created_at timestamptz not null,
    started_at timestamptz,
    finished_at timestamptz,
    last_seq bigint not null default 0,
    total integer not null default 0,
    passed integer not null default 0,
    failed integer not null default 0,
    errors integer not null default 0,
    skipped integer not null default 0,
    flaky integer not null default 0,
    client_run_id text constraint runs_client_run_id_length check (length(client_run_id) between 1 and 200),
    meta jsonb not null default '{}',
    constraint runs_number unique (org_id, number),
    constraint runs_client_run_id unique (org_id, client_run_id),
    constraint runs_project foreign key (org_id, project_id) references projects (org_id, id) on delete set null (project_id),
    constraint runs_totals_add_up check (total = passed + failed + errors + skipped and flaky between 0 and passed),
    constraint runs_final_is_finished check ((state in ('passed', 'failed', 'error', 'aborted')) = (finished_at is not null))
) with (fillfactor = 70);

-- Lists are in the order of the numbers, which is the order of time within an organization. By id they would be too, but then the
-- primary key looks good to a planner and reads through everybody's runs.
create index runs_by_state on runs (org_id, state, number desc);
create index runs_by_project on runs (org_id, project_id, number desc);
create index runs_by_age on runs (org_id, created_at);
create index runs_by_job on runs (job_id) where job_id is not null;
select probity_tenant_table('runs');

-- One attempt of one case. There is no foreign key to `runs`: rows are only written under the lock of their run, and a key would
-- be checked row by row in the busiest statement of the server.
create table results (
    id uuid not null,
    org_id uuid not null,
    run_month date not null,
    run_id uuid not null,
    seq bigint not null,
    client_event_id text not null constraint results_client_event_id_length check (length(client_event_id) between 1 and 100),
    case_key text not null,
    name text not null,
    suite text,
    file text,
    line integer,
    outcome text not null constraint results_outcome check (outcome in ('passed', 'failed', 'error', 'skipped', 'xfailed', 'xpassed')),
    duration_ms double precision not null constraint results_duration check (duration_ms >= 0),
    attempt integer not null constraint results_attempt check (attempt >= 1),
    worker text,
    host text,
    message text,
    error_hash text,
    details jsonb,
    at timestamptz not null,
    constraint results_pkey primary key (run_month, id),
    constraint results_client_event unique (run_month, run_id, client_event_id)
) partition by range (run_month);
-- Without the month, so that they and the unique constraint look different to a planner that has no statistics yet.
create index results_by_seq on results (run_id, seq);
create index results_by_case on results (run_id, case_key);
create index results_by_org on results (org_id, run_month);
select probity_tenant_table('results');

-- The gapless sequence of a run: what every live reader sees. `body` is the JSON text that goes over the wire.
create table run_events (
    id uuid not null,
    org_id uuid not null,
    run_month date not null,
    run_id uuid not null,
    seq bigint not null constraint run_events_seq_positive check (seq > 0),
    client_event_id text constraint run_events_client_event_id_length check (length(client_event_id) between 1 and 100),
    type text not null constraint run_events_type check (type in ('status', 'log', 'result', 'artifact', 'done')),
    at timestamptz not null,
    body json not null,
    constraint run_events_pkey primary key (run_month, id),
    constraint run_events_client_event unique (run_month, run_id, client_event_id)
) partition by range (run_month);
create unique index run_events_by_seq on run_events (run_month, run_id, seq);
create index run_events_by_org on run_events (org_id, run_month);
select probity_tenant_table('run_events');

create table artifacts (
    id uuid primary key,
    org_id uuid not null references organizations,
    run_id uuid not null references runs on delete cascade,
    name text not null constraint artifacts_name_length check (length(name) between 1 and 500),
    content_type text not null constraint artifacts_content_type_length check (length(content_type) between 3 and 200),
    size_bytes bigint not null constraint artifacts_size check (size_bytes >= 0),
    sha256 text not null constraint artifacts_sha256 check (sha256 ~ '^[0-9a-f]{64}$'),
    blob_key text not null,
    created_by text not null,
    created_at timestamptz not null,
    constraint artifacts_content unique (run_id, name, sha256)
);
create index artifacts_by_org on artifacts (org_id, created_at desc);
select probity_tenant_table('artifacts');

-- Make the partitions of one month, if they are not there yet. Runs as the owner of the tables, because no role of the server may
-- create tables; all it can do is add a month within reason. A new table is attached (the parent stays readable and writable), and
-- carries the tenant policy itself: a query that names a partition does not see its parent's policies.
create function probity_add_run_month(month date) returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, public
    as $$
declare
    start date := date_trunc('month', month)::date;
    parent text;
    part text;
    made boolean := false;
begin
    if start < date '2000-01-01' or start > (now() + interval '24 months')::date then
        raise exception 'month % is out of range', start using errcode = 'datetime_field_overflow';
    end if;
    if to_regclass(format('public.run_events_%s', to_char(start, 'YYYYMM'))) is not null then
        return false;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('probity.run_months', 0));
    foreach parent in array array['results', 'run_events'] loop
        part := format('%s_%s', parent, to_char(start, 'YYYYMM'));
        if to_regclass(format('public.%I', part)) is null then
            execute format('create table public.%I (like public.%I including defaults including constraints including indexes)', part, parent);
            perform public.probity_tenant_table(format('public.%I', part)::regclass);
            execute format('alter table public.%I attach partition public.%I for values from (%L) to (%L)',
                           parent, part, start, (start + interval '1 month')::date);
            made := true;
        end if;
    end loop;
    return made;
end
$$;
revoke all on function probity_add_run_month(date) from public;
grant execute on function probity_add_run_month(date) to probity_app, probity_system;

select probity_add_run_month((now() + make_interval(months => ahead))::date) from generate_series(0, 3) as ahead;

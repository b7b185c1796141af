set lock_timeout = '5s';

-- An id as `kernel/ids.py` makes them (UUIDv7 whose last 4 bytes are SHA-256 of the first 12), for rows that a statement writes by itself.
create function probity_new_id() returns uuid
    language plpgsql volatile parallel safe
    as $$
declare
    head bytea := substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                  || substring(uuid_send(gen_random_uuid()) from 7 for 6);
begin
    head := set_byte(head, 6, (get_byte(head, 6) & 15) | 112);
    return encode(head || substring(sha256(head) for 4), 'hex')::uuid;
end
$$;

-- What happened, who did it, to what, and how it ended. Written in the transaction of the action (`audit.service.record`), or by the
-- same statement as the action: name org_id, actor, action (a value of audit.models.Action), resource, correlation_id and, where they
-- differ from the default, status and metadata; leave id and occurred_at to their defaults. No foreign key: the trail outlives its
-- organization. org_id is null for events of the installation itself (only the system role writes and reads those).
create table audit_events (
    id uuid primary key default probity_new_id(),
    org_id uuid,
    occurred_at timestamptz not null default clock_timestamp(),
    actor text not null constraint audit_events_actor check (length(actor) between 1 and 200),
    action text not null constraint audit_events_action check (length(action) between 1 and 100),
    resource text not null constraint audit_events_resource check (length(resource) between 1 and 500),
    status text not null default 'success' constraint audit_events_status check (status in ('success', 'failure', 'denied')),
    correlation_id uuid not null default gen_random_uuid(),
    metadata jsonb not null default '{}' constraint audit_events_metadata check (jsonb_typeof(metadata) = 'object')
);

create index audit_events_by_time on audit_events (org_id, occurred_at desc, id desc);
create index audit_events_by_actor on audit_events (org_id, actor, occurred_at desc);
create index audit_events_by_resource on audit_events (org_id, resource, occurred_at desc);
create index audit_events_by_correlation on audit_events (org_id, correlation_id);
-- The two that agents cause by the thousand stay out: they are found by time, agent, job or correlation.
create index audit_events_by_action on audit_events (org_id, action, occurred_at desc) where action not in ('job.claim', 'job.complete');

-- Committed events whose hash is not in the chain yet. No index: the sealer takes whatever is there and leaves it empty.
create table audit_unsealed (
    org_id uuid,
    event_id uuid not null,
    event_hash bytea not null,
    queued_at timestamptz not null default clock_timestamp()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- The chain of an organization; the installation's own has the nil UUID. chain_hash covers org_id, seq, prev_hash, event_id, event_hash.
create table audit_chain (
    org_id uuid not null,
    seq bigint not null constraint audit_chain_seq check (seq > 0),
    event_id uuid not null,
    event_hash bytea not null constraint audit_chain_event_hash check (length(event_hash) = 32),
    prev_hash bytea not null constraint audit_chain_prev_hash check (length(prev_hash) = 32),
    chain_hash bytea not null constraint audit_chain_chain_hash check (length(chain_hash) = 32),
    primary key (org_id, seq),
    constraint audit_chain_event_once unique (event_id)
);

-- Signed heads of a chain. 'head': taken now and then. 'boundary': everything up to seq was removed by retention.
create table audit_checkpoints (
    org_id uuid not null,
    kind text not null constraint audit_checkpoints_kind check (kind in ('head', 'boundary')),
    seq bigint not null,
    chain_hash bytea not null constraint audit_checkpoints_chain_hash check (length(chain_hash) = 32),
    signed_at timestamptz not null,
    key_id text not null,
    signature bytea not null,
    primary key (org_id, seq, kind)
);

-- Public keys that signed checkpoints, each endorsed by the key that was current when it was last seen: after the master key is changed
-- and the old one taken away, what the old one signed can still be checked.
create table audit_keys (
    key_id text primary key,
    public_key bytea not null constraint audit_keys_public_key check (length(public_key) = 32),
    endorsed_by text not null,
    endorsement bytea not null
);
revoke insert, update, delete, truncate on audit_keys from probity_app;

select probity_tenant_table(name::regclass) from unnest(array['audit_events', 'audit_unsealed', 'audit_chain', 'audit_checkpoints']) as name;

-- The bytes that a hash covers: a label, fixed-width fields, then each text with its length in front. audit/rules.py computes the same from
-- an exported row.
create function probity_audit_hash(
    id uuid, org_id uuid, occurred_at timestamptz, correlation_id uuid, actor text, action text, resource text, status text, metadata jsonb
) returns bytea
    language sql stable parallel safe
    as $$
select sha256(
    '\x70726f626974792d61756469742d6576656e742d763100'::bytea
    || uuid_send(id)
    || uuid_send(coalesce(org_id, '00000000-0000-0000-0000-000000000000'))
    || int8send((extract(epoch from occurred_at) * 1000000)::bigint)
    || uuid_send(correlation_id)
    || int4send(octet_length(actor)) || convert_to(actor, 'UTF8')
    || int4send(octet_length(action)) || convert_to(action, 'UTF8')
    || int4send(octet_length(resource)) || convert_to(resource, 'UTF8')
    || int4send(octet_length(status)) || convert_to(status, 'UTF8')
    || int4send(octet_length(metadata::text)) || convert_to(metadata::text, 'UTF8')
)
$$;

create function probity_audit_queue() returns trigger
    language plpgsql
    as $$
begin
    insert into audit_unsealed (org_id, event_id, event_hash)
    select org_id, id, probity_audit_hash(id, org_id, occurred_at, correlation_id, actor, action, resource, status, metadata)
      from written;
    return null;
end
$$;

create trigger audit_events_queue after insert on audit_events
    referencing new table as written
    for each statement execute function probity_audit_queue();

-- Append-only, whoever asks.
create function probity_audit_refuse() returns trigger
    language plpgsql
    as $$
begin
    raise exception 'the audit trail is append-only' using errcode = 'integrity_constraint_violation', table = tg_table_name;
end
$$;

create trigger audit_events_append_only before update on audit_events for each statement execute function probity_audit_refuse();
create trigger audit_events_keep before truncate on audit_events for each statement execute function probity_audit_refuse();
create trigger audit_chain_append_only before update on audit_chain for each statement execute function probity_audit_refuse();
create trigger audit_chain_keep before truncate on audit_chain for each statement execute function probity_audit_refuse();
create trigger audit_checkpoints_append_only before update or delete on audit_checkpoints
    for each statement execute function probity_audit_refuse();
create trigger audit_checkpoints_keep before truncate on audit_checkpoints for each statement execute function probity_audit_refuse();
create trigger audit_unsealed_append_only before update on audit_unsealed for each statement execute function probity_audit_refuse();
create trigger audit_unsealed_keep before truncate on audit_unsealed for each statement execute function probity_audit_refuse();

-- The only way out: rows that a signed boundary covers. A forged boundary lets rows go and then fails verification.
create function probity_audit_event_leaves() returns trigger
    language plpgsql
    as $$
begin
    if not exists (
        select
          from audit_chain c
          join audit_checkpoints b on b.org_id = c.org_id and b.kind = 'boundary' and b.seq >= c.seq
         where c.event_id = old.id
    ) then
        raise exception 'the audit trail is append-only' using errcode = 'integrity_constraint_violation', table = tg_table_name;
    end if;
    return old;
end
$$;

create function probity_audit_link_leaves() returns trigger
    language plpgsql
    as $$
begin
    if not exists (select from audit_checkpoints b where b.org_id = old.org_id and b.kind = 'boundary' and b.seq >= old.seq)
       or exists (select from audit_events e where e.id = old.event_id) then
        raise exception 'the audit trail is append-only' using errcode = 'integrity_constraint_violation', table = tg_table_name;
    end if;
    return old;
end
$$;

create trigger audit_events_leave before delete on audit_events for each row execute function probity_audit_event_leaves();
create trigger audit_chain_leave before delete on audit_chain for each row execute function probity_audit_link_leaves();

-- The application appends events and reads its trail; only the system role seals and prunes.
revoke update, delete, truncate on audit_events from probity_app, probity_system;
revoke all on audit_unsealed from probity_app;
grant select, insert on audit_unsealed to probity_app;
revoke update on audit_unsealed from probity_system;
revoke insert, update, delete, truncate on audit_chain, audit_checkpoints from probity_app;
revoke update, truncate on audit_chain, audit_checkpoints from probity_system;
grant delete on audit_events to probity_system;

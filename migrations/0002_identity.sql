set lock_timeout = '5s';

-- An organization is a tenant; its own row is visible to transactions that act for it.
create table organizations (
    id uuid primary key,
    slug text not null constraint organizations_slug_form check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(slug) <= 63),
    name text not null constraint organizations_name_length check (length(name) between 1 and 100),
    settings jsonb not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint organizations_slug unique (slug)
);
alter table organizations enable row level security;
alter table organizations force row level security;
create policy tenant_isolation on organizations
    using (id = any ((select probity_orgs())::uuid[]))
    with check (id = any ((select probity_orgs())::uuid[]));

-- A person. Belongs to organizations through memberships; password, second factor and verified e-mail are the person's own.
create table users (
    id uuid primary key,
    email text not null constraint users_email_form check (email = lower(btrim(email)) and length(email) between 3 and 254),
    display_name text not null constraint users_display_name_length check (length(display_name) between 1 and 100),
    password_hash text,
    password_changed_at timestamptz,
    email_verified_at timestamptz,
    avatar_url text,
    disabled_at timestamptz,
    failed_login_count integer not null default 0 constraint users_failed_login_count check (failed_login_count >= 0),
    locked_until timestamptz,
    last_login_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint users_email unique (email)
);

create table memberships (
    org_id uuid not null references organizations,
    user_id uuid not null references users on delete cascade,
    is_owner boolean not null default false,
    created_at timestamptz not null default now(),
    constraint memberships_pkey primary key (org_id, user_id)
);
create index memberships_by_user on memberships (user_id);
select probity_tenant_table('memberships');

-- People are seen through a shared organization. Whoever may add a person inserts the row first and its membership after it.
alter table users enable row level security;
alter table users force row level security;
create policy tenant_isolation on users
    using (exists (select from memberships m where m.user_id = users.id))
    with check (exists (select from memberships m where m.user_id = users.id));
create policy new_person on users for insert with check (true);

-- A role is a named permission set. Built-in ones (is_system) reproduce the contracts' tables; their permissions may be edited.
create table roles (
    id uuid primary key,
    org_id uuid not null references organizations,
    name text not null constraint roles_name_length check (length(name) between 1 and 100),
    description text not null default '',
    permissions text[] not null default '{}',
    is_system boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint roles_name unique (org_id, name),
    constraint roles_org_id_id unique (org_id, id)
);
select probity_tenant_table('roles');

-- A role given to a member; an empty scope means everywhere in the organization. The same grant may exist twice.
create table role_grants (
    id uuid primary key,
    org_id uuid not null,
    user_id uuid not null,
    role_id uuid not null,
    scope jsonb not null default '{}' constraint role_grants_scope check (jsonb_typeof(scope) = 'object'),
    granted_by text not null default 'system',
    granted_at timestamptz not null default now(),
    constraint role_grants_member foreign key (org_id, user_id) references memberships on delete cascade,
    constraint role_grants_role foreign key (org_id, role_id) references roles (org_id, id) on delete cascade
);
create index role_grants_by_member on role_grants (org_id, user_id);
create index role_grants_by_role on role_grants (org_id, role_id);
select probity_tenant_table('role_grants');

-- One sign-in. `kind` says where from; a pending second factor makes it useless everywhere but in that flow.
create table sessions (
    id uuid primary key,
    user_id uuid not null references users on delete cascade,
    kind text not null constraint sessions_kind
        check (kind in ('ui', 'root', 'bridge', 'sentri', 'agnox', 'suparbase', 'achilles', 'cli', 'oidc')),
    active_org_id uuid references organizations on delete set null,
    created_at timestamptz not null,
    last_used_at timestamptz not null,
    expires_at timestamptz not null,
    idle_expires_at timestamptz not null,
    mfa_at timestamptz,
    mfa_pending boolean not null default false,
    revoked_at timestamptz,
    ip text,
    user_agent text,
    constraint sessions_lifetime check (idle_expires_at <= expires_at and created_at < expires_at)
) with (fillfactor = 80);
create index sessions_by_user on sessions (user_id) where revoked_at is null;
create index sessions_by_expiry on sessions (expires_at);
alter table sessions enable row level security;
alter table sessions force row level security;
create policy tenant_isolation on sessions
    using (exists (select from memberships m where m.user_id = sessions.user_id))
    with check (exists (select from memberships m where m.user_id = sessions.user_id));

-- What a client holds for a session: an opaque cookie or signed tokens, each found by its hash. Revoking the session ends them all.
create table session_credentials (
    hash bytea constraint session_credentials_pkey primary key constraint session_credentials_hash check (octet_length(hash) = 32),
    session_id uuid not null references sessions on delete cascade,
    kind text not null constraint session_credentials_kind check (kind in ('cookie', 'bridge_jwt', 'sentri_jwt'))
);
create index session_credentials_by_session on session_credentials (session_id);
alter table session_credentials enable row level security;
alter table session_credentials force row level security;
create policy tenant_isolation on session_credentials
    using (exists (select from sessions s where s.id = session_credentials.session_id))
    with check (exists (select from sessions s where s.id = session_credentials.session_id));

-- Keys of programs. The permissions are those of the scope that the maker held; at use they are cut to what the maker still holds.
create table api_keys (
    id uuid primary key,
    org_id uuid not null,
    user_id uuid not null,
    kind text not null constraint api_keys_kind check (kind in ('pa', 'pk_live', 'sbp')),
    name text not null constraint api_keys_name_length check (length(name) between 1 and 100),
    key_prefix text not null,
    key_hash bytea not null constraint api_keys_hash check (octet_length(key_hash) = 32),
    scope text constraint api_keys_scope check (scope in ('read', 'read-write')),
    permissions text[] not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz,
    constraint api_keys_key_hash unique (key_hash),
    constraint api_keys_maker foreign key (org_id, user_id) references memberships on delete cascade
);
create index api_keys_by_org on api_keys (org_id, created_at desc, id desc);
create index api_keys_by_maker on api_keys (user_id);
select probity_tenant_table('api_keys');

-- Human numbers (`RUN-42`, `PRJ-3`): one row per organization and kind, locked by whoever takes the next number.
create table org_counters (
    org_id uuid not null references organizations,
    kind text not null constraint org_counters_kind check (kind ~ '^[A-Z]{2,5}$'),
    value bigint not null constraint org_counters_value check (value > 0),
    constraint org_counters_pkey primary key (org_id, kind)
) with (fillfactor = 50);
select probity_tenant_table('org_counters');

-- The organizations of a person with the roles held in each, as sign-in and every request read them: one JSON array.
create function probity_memberships(person uuid) returns jsonb
    language sql stable parallel safe
    as $$
select coalesce(jsonb_agg(jsonb_build_object(
           'org_id', m.org_id, 'org_name', o.name, 'org_slug', o.slug, 'is_owner', m.is_owner, 'joined_at', m.created_at,
           'grants', (select coalesce(jsonb_agg(jsonb_build_object('role', r.name, 'permissions', r.permissions, 'scope', g.scope)), '[]')
                        from role_grants g
                        join roles r on r.org_id = g.org_id and r.id = g.role_id
                       where g.org_id = m.org_id and g.user_id = m.user_id))), '[]')
  from memberships m
  join organizations o on o.id = m.org_id
 where m.user_id = person
$$;

set lock_timeout = '5s';

create table projects (
    id uuid primary key,
    org_id uuid not null references organizations,
    number bigint not null constraint projects_number_positive check (number > 0),
    name text not null constraint projects_name_length check (length(name) between 1 and 200 and name = btrim(name)),
    slug text not null constraint projects_slug_form check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(slug) <= 63),
    description text not null default '',
    status text not null default 'active' constraint projects_status check (status in ('active', 'archived')),
    created_by text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint projects_number unique (org_id, number),
    constraint projects_slug unique (org_id, slug),
    constraint projects_org_id_id unique (org_id, id)
);
-- One name, one project: a reporter that names a project always means the same one.
create unique index projects_name on projects (org_id, lower(name));
select probity_tenant_table('projects');

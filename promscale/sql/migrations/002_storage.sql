-- The tables of the second schema, in _promscale. Spans are in partitions by start time, so that old ones are dropped
-- with their partition. On plain PostgreSQL a partition is native and has two states: an open one takes new spans and
-- has an index of identities; a closed one has been rewritten densely by promscale's upkeep. With TimescaleDB the table
-- of spans is a hypertable, and its closed chunks are in the columnstore, where the edition has one.

alter table _ps_trace.span set schema _promscale;
alter table _promscale.span rename to first_span;
alter table _ps_trace.traces_data set schema _promscale;
alter table _promscale.traces_data rename to first_traces_data;
alter index _promscale.span_identity rename to first_span_identity;
alter index _promscale.span_trace_id rename to first_span_trace_id;
alter index _promscale.traces_data_trace_id rename to first_traces_data_trace_id;
alter statistics _ps_trace.span_minute rename to first_span_minute;
alter table _ps_trace.resource set schema _promscale;
alter table _ps_trace.scope set schema _promscale;
alter table _ps_trace.operation set schema _promscale;

-- With a check the planner could neither use an index nor a columnstore's filters for a uuid that is shown as a
-- trace_id, because it keeps the coercion. promscale refuses spans whose trace id is all zero.
alter domain ps_trace.trace_id drop constraint if exists trace_id_check;


-- The store's one row. The generation changes when rows are removed from the tables that promscale remembers having
-- written. Spans that start before closed_until may be in closed partitions.
create table _promscale.store (
    only_row boolean primary key default true check (only_row),
    generation uuid not null default gen_random_uuid(),
    closed_until timestamptz not null default '-infinity',
    trace_retention_period interval not null default interval '7 days' check (trace_retention_period > interval '0'),
    disk_budget bigint check (disk_budget >= 0),                -- bytes; 0: none; null: the default
    default_disk_budget bigint not null default 2000000000      -- from promscale's settings
);
-- A store with spans keeps its retention period; an empty one gets the new default.
insert into _promscale.store (trace_retention_period)
select case when exists (select from _promscale.first_span) then trace_retention_period else interval '7 days' end
from _ps_trace.store;

-- What many spans share. An id is a hash of the content, so that promscale knows it without asking.
create table _promscale.origin (
    id bigint primary key,
    operation_id bigint not null,
    resource_id bigint not null,
    scope_id bigint not null,
    -- Those of the operation, to save a second join for every span that is read.
    service_name text not null,
    span_kind ps_trace.span_kind not null,
    span_name text not null
);
create index origin_operation_id on _promscale.origin (operation_id);

-- Attributes that are the same in many spans of closed partitions.
create table _promscale.tag_set (
    id int generated always as identity primary key,
    origin_id bigint not null,
    tags jsonb not null
);
create index tag_set_origin_id on _promscale.tag_set (origin_id);

-- zstd dictionaries, by the id that is in each frame compressed with them.
create table _promscale.dictionary (
    id bigint primary key,
    data bytea not null,
    trained_at timestamptz not null default now()
);

-- A partition has the spans and the OTLP bytes of one range of time, and a row here.
create table _promscale.partition (
    starts_at timestamptz primary key,
    ends_at timestamptz not null check (ends_at > starts_at),
    name text not null unique,  -- of its tables: span_<name>, traces_data_<name>
    closed_at timestamptz,
    dictionary_id bigint references _promscale.dictionary, -- of its OTLP bytes, once it is closed
    tag_set_ids int[] -- that its spans may have, from when its closing has begun
);

create table _promscale.span (
    trace_id uuid not null,
    span_id bigint not null,
    start_time timestamptz not null,
    duration_ms double precision not null,
    parent_span_id bigint,
    origin_id bigint not null,
    tag_set_id int,      -- a part of the attributes; only in closed partitions
    status_code ps_trace.status_code not null,
    start_ns smallint not null, -- the nanoseconds of the start that start_time's microseconds do not have
    dropped_tags_count int,
    dropped_events_count int,
    dropped_link_count int,
    trace_state text,
    status_message text,
    span_tags jsonb,     -- the attributes that are not in the tag set; null where there are none
    events jsonb,        -- [[microseconds since start_time, name, {attributes}, dropped attributes], ...]; the last two
                         -- where needed
    links jsonb          -- [{"t": trace id, "s": span id, both hex, "a": {attributes}, "d": dropped attributes}, ...]
) partition by range (start_time);

-- The spans as they came, byte for byte: OTLP TracesData, zstd-compressed, each row of one trace only.
create table _promscale.traces_data (
    trace_id uuid not null,
    last_start_time timestamptz not null, -- of the spans in it
    data bytea not null
) partition by range (last_start_time);
alter table _promscale.traces_data alter column data set storage external;
create index traces_data_trace_id on _promscale.traces_data (trace_id);

create function _promscale.is_timescaledb() returns boolean
language sql stable set search_path = pg_catalog, pg_temp
return exists (select from pg_extension where extname = 'timescaledb');

-- An identity is trace id, span id, and start in nanoseconds. The hash makes the index half as large; two spans whose
-- hashes are the same by chance must have started in the same microsecond, too. Nanoseconds come in after hashing: with
-- "span_id # start_ns" as the seed, span 3 at 619 ns and span 9 at 609 ns of a trace had one hash.
create function _promscale.identity_hash(trace_id uuid, span_id bigint, start_ns smallint) returns bigint
language sql immutable strict parallel safe
return uuid_hash_extended(trace_id, span_id) # start_ns::bigint;

-- How long a partition is: an hour, and more with a retention period of more than a week. For each statement,
-- PostgreSQL locks all partitions and their indexes, and it has room for some thousands of locks.
create function _promscale.partition_length() returns interval
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select least(greatest(ceil(extract(epoch from s.trace_retention_period) / 3600 / 168), 1), 24) * interval '1 hour'
    from _promscale.store as s
$$;

-- A partitioned table cannot be a hypertable, so TimescaleDB gets one that is like it.
do $$
begin
    if _promscale.is_timescaledb() then
        create table _promscale.hypertable (like _promscale.span);
        -- The columnstore has dictionaries for every type but numbers and times. Origins are few and their ids are
        -- random: 1.5 bytes a span in a dictionary, 8.5 without.
        create domain _promscale.origin_id as bigint;
        alter table _promscale.hypertable alter column origin_id type _promscale.origin_id;
        drop table _promscale.span;
        alter table _promscale.hypertable rename to span;
        perform public.create_hypertable(
            '_promscale.span', 'start_time', chunk_time_interval => _promscale.partition_length(),
            create_default_indexes => false -- that on the start time, with which the unique one begins
        );
        -- Not on the hash: the columnstore checks what is unique by columns.
        create unique index span_identity on _promscale.span (start_time, trace_id, span_id, start_ns);
        create statistics _promscale.span_minute on (public.time_bucket('1 minute', start_time)) from _promscale.span;
    else
        -- For spans of any age that has no partition.
        create table _promscale.span_default partition of _promscale.span default;
        create unique index span_default_identity
            on _promscale.span_default (start_time, _promscale.identity_hash(trace_id, span_id, start_ns));
        create statistics _promscale.span_minute on
            (date_bin('1 minute', start_time, timestamptz '2000-01-03 00:00:00+00')) from _promscale.span;
    end if;
end $$;
create table _promscale.traces_data_default partition of _promscale.traces_data default;

create index span_trace_id on _promscale.span (trace_id);
-- For subqueries on a span's children, from which users compute self times.
create index span_parent_span_id on _promscale.span (parent_span_id);
create index span_root on _promscale.span (start_time) include (duration_ms, origin_id) where parent_span_id is null;
-- The planner cannot know from a sample of a partition that a trace has about as many spans in all of them together.
alter table _promscale.span alter column trace_id set (n_distinct_inherited = -0.02);

-- Last, because TimescaleDB then refuses other changes. Ordered by trace id, a batch of rows has few traces, and the
-- columnstore finds one by its smallest and largest.
do $$
begin
    if _promscale.is_timescaledb() and current_setting('timescaledb.license') = 'timescale' then
        alter table _promscale.span set (
            timescaledb.compress,
            timescaledb.compress_segmentby = '',
            timescaledb.compress_orderby = 'trace_id, start_time'
        );
    end if;
end $$;


-- Partitions --------------------------------------------------------------------------------------------------------

-- Creates a partition's table of one kind, and moves into it what another table has of its time.
create function _promscale.create_partition_table(
    kind text, name text, starts timestamptz, ends timestamptz, source text
)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    target constant text := kind || '_' || name;
    time_column constant text := case kind when 'span' then 'start_time' else 'last_start_time' end;
    expected boolean;
    rows bigint;
begin
    -- A statement that knows the partitions already, and waits for the source, would find the moved rows in neither of
    -- the two. With the parent locked, there is no such statement.
    execute format(
        'select exists (select from _promscale.%I where %I >= $1 and %I < $2)', source, time_column, time_column
    ) into expected using starts, ends;
    if expected then
        execute format('lock table only _promscale.%I in access exclusive mode', kind);
    end if;
    -- Writers must not put more of its time into the default partition after its rows are moved.
    execute format('lock table _promscale.%I in access exclusive mode', source);
    execute format('create table _promscale.%I (like _promscale.%I including storage including constraints)', target, kind);
    execute format(
        'with moved as (delete from _promscale.%I where %I >= $1 and %I < $2 returning *)'
        ' insert into _promscale.%I select * from moved',
        source, time_column, time_column, target
    ) using starts, ends;
    get diagnostics rows = row_count;
    if rows > 0 and not expected then
        raise serialization_failure using message = format('rows came into %s just now: try again', source);
    end if;
    if kind = 'span' then
        execute format(
            'create unique index on _promscale.%I (start_time, _promscale.identity_hash(trace_id, span_id, start_ns))',
            target
        );
    end if;
    execute format(
        'alter table _promscale.%I attach partition _promscale.%I for values from (%L) to (%L)',
        kind, target, starts, ends
    );
end $$;

-- Creates the partition of this range, or of those parts of it that have none: of an hour that was split, a part may
-- have been dropped.
create function _promscale.create_partition(starts timestamptz, ends timestamptz) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    gap tstzrange;
    name text;
begin
    perform pg_advisory_xact_lock(hashtext('_promscale.partition'));
    for gap in
        select unnest(tstzmultirange(tstzrange(starts, ends)) - coalesce(range_agg(tstzrange(p.starts_at, p.ends_at)), '{}'))
        from _promscale.partition as p
        where p.starts_at < ends and p.ends_at > starts
    loop
        name := to_char(lower(gap) at time zone 'UTC', 'YYYYMMDD"T"HH24MISS');
        insert into _promscale.partition (starts_at, ends_at, name) values (lower(gap), upper(gap), name);
        if not _promscale.is_timescaledb() then
            perform _promscale.create_partition_table('span', name, lower(gap), upper(gap), 'span_default');
        end if;
        perform _promscale.create_partition_table('traces_data', name, lower(gap), upper(gap), 'traces_data_default');
    end loop;
end $$;

-- Creates the partitions of these times, as far as the retention period reaches back and an hour ahead; others stay in
-- the default partition. A call for many takes many locks.
create function _promscale.create_partitions(times timestamptz[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    length constant interval := _promscale.partition_length();
    starts timestamptz;
begin
    for starts in
        select distinct date_bin(length, t, 'epoch')
        from unnest(times) as t
        where t > now() - (select trace_retention_period from _promscale.store) and t < now() + interval '1 hour'
        order by 1 desc
    loop
        -- The present always gets its partition.
        exit when starts + length < now() and (select count(*) from _promscale.partition) >= 1000;
        perform _promscale.create_partition(starts, starts + length);
    end loop;
end $$;

-- Drops TimescaleDB's chunks of a time. Writers and readers lock the hypertable before its chunks, so this does, too.
create function _promscale.drop_chunks(starts timestamptz, ends timestamptz) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    lock table only _promscale.span in access exclusive mode;
    perform public.drop_chunks('_promscale.span', older_than => ends, newer_than => starts);
end $$;

create function _promscale.drop_partition(starts timestamptz) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    dropped _promscale.partition;
begin
    perform pg_advisory_xact_lock(hashtext('_promscale.partition'));
    delete from _promscale.partition as p where p.starts_at = starts returning * into dropped;
    if not found then
        return;
    end if;
    execute format(
        'drop table if exists _promscale.%I, _promscale.%I',
        'closing_span_' || dropped.name, 'closing_traces_data_' || dropped.name
    );
    if _promscale.is_timescaledb() then
        perform _promscale.drop_chunks(dropped.starts_at, dropped.ends_at);
    else
        execute format('drop table _promscale.%I', 'span_' || dropped.name);
    end if;
    execute format('drop table _promscale.%I', 'traces_data_' || dropped.name);
    delete from _promscale.dictionary as d
    where not exists (select from _promscale.partition as p where p.dictionary_id = d.id);
    perform _promscale.forget_minutes(dropped.starts_at, dropped.ends_at);
    -- Writers are to ask for its partition again when late spans come.
    update _promscale.store set generation = gen_random_uuid();
end $$;

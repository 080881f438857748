-- The ground truth: which faults were on, and when. Idempotent.

create schema if not exists demo;

-- end_time is null as long as the variant is on. Variants that do nothing have no row. Another seed begins another row.
create table if not exists demo.fault (
    start_time timestamptz not null,
    end_time timestamptz check (end_time >= start_time),
    flag text not null,
    variant text not null,
    service text not null,
    seed bigint,
    primary key (flag, start_time)
);

create unique index if not exists fault_is_on on demo.fault (flag) where end_time is null;

-- Each change of a flag, for marks on charts. What was on when recording began is no change.
create or replace view demo.fault_change as
select
    time,
    flag,
    service,
    coalesce(max(variant) filter (where ends), nothing) as from_variant,
    coalesce(max(variant) filter (where not ends), nothing) as to_variant
from demo.fault
-- The flags `load`, `sampling` and `case` have no service's name.
cross join lateral (select case when flag like '%.%' then 'off' else 'default' end) as variant_without_row (nothing)
cross join lateral (values (start_time, false), (end_time, true)) as change (time, ends)
where time > (select min(first.start_time) from demo.fault as first)
group by time, flag, service, nothing
having max(variant) filter (where ends) is distinct from max(variant) filter (where not ends);

grant usage on schema demo to public;

grant select on demo.fault, demo.fault_change to public;

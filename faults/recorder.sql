-- The statements of recorder.py.

-- name: last_change()$
select max(greatest(start_time, end_time))
from demo.fault;

-- name: end_faults(time, seed, flags, variants)!
-- Those that are not on any more, or not with this variant and seed.
update demo.fault
set end_time = :time
where end_time is null
    and not exists (
        select
        from unnest(cast(:flags as text[]), cast(:variants as text[])) as present (flag, variant)
        where (present.flag, present.variant) = (fault.flag, fault.variant)
            and fault.seed is not distinct from cast(:seed as bigint)
    );

-- name: begin_faults(time, seed, flags, variants)!
insert into demo.fault (start_time, flag, variant, service, seed)
select
    cast(:time as timestamptz),
    flag,
    variant,
    split_part(flag, '.', 1),
    cast(:seed as bigint)
from unnest(cast(:flags as text[]), cast(:variants as text[])) as present (flag, variant)
where not exists (
    select
    from demo.fault
    where fault.flag = present.flag and fault.end_time is null
);

-- name: latest_changes(number)
select
    time,
    flag,
    service,
    from_variant,
    to_variant
from demo.fault_change
order by time desc, flag
limit :number;

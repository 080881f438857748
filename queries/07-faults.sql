-- Faults: what was switched on, and when?
--
-- The part `faults` records this while the demo runs, whether the traces name the faults or not. The variant "off", and
-- "default" of the flags load, sampling and case, are not in the table. What is on while a case is open is recorded at
-- its end.
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif

-- name: faults_on(time_from, time_to)
-- Which faults were on, from when to when in the time range?
select
    greatest(start_time, cast(:time_from as timestamptz)) as time,
    least(end_time, cast(:time_to as timestamptz)) as time_end,
    flag,
    variant,
    service as service_name,
    seed
from demo.fault
where greatest(start_time, cast(:time_from as timestamptz)) < least(end_time, cast(:time_to as timestamptz))
order by flag, time;

-- name: fault_changes(time_from, time_to)
-- When were faults switched, and from which variant to which? The latest 500 changes of the time range.
select
    time,
    flag,
    service as service_name,
    from_variant,
    to_variant
from demo.fault_change
where time >= cast(:time_from as timestamptz) and time < cast(:time_to as timestamptz)
order by time desc, flag
limit 500;

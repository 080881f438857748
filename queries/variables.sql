-- The choices for :service and :operation.
\if :{?service} \else \set service '''lower''' \endif

-- name: services()
-- Which services have sent spans?
select distinct service_name
from operation
order by service_name;

-- name: operations(service)
-- Which operations does a service have?
select distinct span_name
from operation
where service_name = :service
order by span_name;

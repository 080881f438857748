-- What there is to choose from: the values of :service and :operation.
\if :{?service} \else \set service '''lower''' \endif

-- name: services()
-- Which services have ever sent a span?
select distinct service_name
from operation
order by service_name;

-- name: operations(service)
-- Which operations does a service have?
select distinct span_name
from operation
where service_name = :service
order by span_name;

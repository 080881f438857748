-- Makes the coordinator and the two workers of docker-compose.citus.yaml one cluster, when the coordinator is new: all
-- of it or nothing, because promscale would take a coordinator without workers for a cluster of one node.
begin;
select citus_set_coordinator_host('postgres');
select citus_add_node('worker-1', 5432);
select citus_add_node('worker-2', 5432);
commit;

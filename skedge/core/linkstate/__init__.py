"""Link-state flooding, as OSPF and IS-IS do it: records, database, adjacencies. Pure."""

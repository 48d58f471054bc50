/* The maps. All are pinned under PIN_DIR with a version in the name; a layout change takes a new name. */
#ifndef SKEDGE_PLACEMENT_MAPS_H
#define SKEDGE_PLACEMENT_MAPS_H

#include "common/bytecode.h"

/* bcc has a macro for a pinned table and one for socket storage, but none for both. */
#define PINNED_SK_STORAGE(_leaf_type, _name, _pinned) \
    struct _name##_table_t { \
        int key; \
        _leaf_type leaf; \
        void *(*sk_storage_get)(void *, void *, int); \
        int (*sk_storage_delete)(void *); \
        __u32 flags; \
    }; \
    __attribute__((PINNED_SECTION("sk_storage", _pinned))) struct _name##_table_t _name = {.flags = BPF_F_NO_PREALLOC}; \
    BPF_ANNOTATE_KV_PAIR(_name, int, _leaf_type)

/* service id -> its workloads, 20 KiB each. One array for all sizes (21 MiB in all, allocated once): a service that
 * grows keeps its slots and counts, and a lookup costs no hash. */
BPF_TABLE_PINNED("array", __u32, struct service, services_v1, MAX_SERVICES, PIN_DIR "/services_v1");

/* service id -> its recount, under the lock of the service. */
BPF_TABLE_PINNED("array", __u32, struct recount, recounts_v1, MAX_SERVICES, PIN_DIR "/recounts_v1");

/* 0 -> the table on its way into services_v1 (one writer, the controller). */
BPF_TABLE_PINNED("array", __u32, struct staged, staged_v1, 1, PIN_DIR "/staged_v1");

/* service name and protocol -> service id; service id and slot -> workload name. The controller's memory. */
struct service_name { char name[NAME_SIZE]; __u32 protocol; };
struct workload_key { __u32 service; __u32 slot; };
struct workload_name { char site[NAME_SIZE]; char connector[NAME_SIZE]; };
BPF_TABLE_PINNED("hash", struct service_name, __u32, service_names_v1, MAX_SERVICES,
                 PIN_DIR "/service_names_v1", BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("hash", struct workload_key, struct workload_name, workload_names_v1, MAX_SERVICES * MAX_WORKLOADS,
                 PIN_DIR "/workload_names_v1", BPF_F_NO_PREALLOC);

/* port bitmap -> is there any listener on it: spares all other connects the hash lookup. */
BPF_TABLE_PINNED("array", __u32, __u64, ports_v1, PORT_WORDS, PIN_DIR "/ports_v1");

/* listener's address:port -> where its connections go. */
BPF_TABLE_PINNED("hash", struct listener_key, struct listener, listeners_v2, MAX_LISTENERS, PIN_DIR "/listeners_v2",
                 BPF_F_NO_PREALLOC);

/* client -> the workload that it has affinity to. An LRU map, not a hash with a sweep: a full one evicts the client that
 * was away longest, where a hash would take nobody new; an entry that is too old is seen to be so when it is read. */
BPF_TABLE_PINNED("lru_hash", struct affinity_key, struct affinity, affinities_v1, MAX_AFFINITIES,
                 PIN_DIR "/affinities_v1");

/* 0 -> configuration. */
BPF_TABLE_PINNED("array", __u32, struct config, config_v1, 1, PIN_DIR "/config_v1");

/* 0 -> what happened. */
BPF_TABLE_PINNED("array", __u32, struct news, news_v1, 1, PIN_DIR "/news_v1");

/* reason code -> how many connects were refused (or candidates skipped) for it. */
BPF_TABLE_PINNED("percpu_array", __u32, __u64, drops_v1, MAX_REASONS, PIN_DIR "/drops_v1");

/* socket -> its placement; socket -> its unconnected UDP flows. */
PINNED_SK_STORAGE(struct socket_placement, placements_v2, PIN_DIR "/placements_v2");
PINNED_SK_STORAGE(struct udp_flows, flows_v2, PIN_DIR "/flows_v2");
#ifdef PLACEMENTS_V1 /* the loader defines it while they are in use, see loader/old_placements.py */
PINNED_SK_STORAGE(struct placement, placements_v1, PIN_DIR "/placements_v1");
PINNED_SK_STORAGE(struct udp_flows_v1, flows_v1, PIN_DIR "/flows_v1");
#endif

/* position -> a pick with everything it was decided on. */
BPF_TABLE_PINNED("array", __u32, struct logged_pick, pick_log_v2, PICK_LOG_ENTRIES, PIN_DIR "/pick_log_v2");

#endif

/* What lies in the maps. dataplane/ebpf/layout_placement.py mirrors these layouts; a test compares the sizes and offsets. */
#ifndef SKEDGE_PLACEMENT_TYPES_H
#define SKEDGE_PLACEMENT_TYPES_H

/* One workload of a service. "control" is written by the controller (through the apply program, under the lock),
 * "kernel" is written by the programs only: an update by the controller can never lose a count in flight. */
struct slot {
    __u32 path_cost;  /* control */
    __u32 capacity;   /* control, at least 1 once used */
    __u32 others;     /* control: open connections of the other sites, as last reported */
    __u32 flags;      /* control: SLOT_* and the reason why it is out */
    __u64 mine;       /* kernel: open connections placed here */
    __u64 last;       /* kernel: choice number of the last choice, below FIRST_CHOICE the rank by name */
    __u64 chosen;     /* kernel: how often chosen */
    __u32 refused;    /* kernel: connects that were refused or not answered */
    __u32 suspended;  /* kernel: 0 or 1 */
    __u32 addr4;      /* control: targets, network byte order */
    __u16 port4;
    __u16 port6;
    __u32 addr6[4];
    __u32 generation; /* control: changes when the slot gets another workload */
    __u32 nat;        /* kernel: how many of `mine` hold a NAT port */
};

struct service {
    struct bpf_spin_lock lock;
    __u32 size;       /* slots that are scanned: CLASS_SMALL, CLASS_MEDIUM or MAX_WORKLOADS */
    __u64 version;    /* of the table, raised by each change of a control field */
    __u64 epoch;      /* raised by every change of a count: a pick that sees two values was not alone */
    __u64 choices;
    __u64 stale;      /* picks made on a changed count: stays 0 */
    __u64 underflow;  /* releases of something that was not counted: stays 0 */
    __u64 winner;     /* of the pick that holds the lock, see service_slot() */
    __u64 zero;       /* always, see service_scan() */
    struct slot slots[MAX_WORKLOADS];
};

/* A recount of one service, see placement/recount.h. */
struct recount {
    __u32 round; /* 1..255 */
    __u32 spare;
    __u32 generation[MAX_WORKLOADS]; /* of each slot when the recount began */
    __s32 mine[MAX_WORKLOADS]; /* counted, but not (yet) found */
    __s32 nat[MAX_WORKLOADS];  /* the same of those that hold a NAT port */
};

/* One service's table on its way into the kernel: written plainly, then taken over by the apply program. */
struct staged_slot {
    __u32 apply; /* APPLY_* */
    __u32 path_cost;
    __u32 capacity;
    __u32 others;
    __u32 flags;
    __u32 addr4;
    __u16 port4;
    __u16 port6;
    __u32 addr6[4];
    __u32 generation;
    __u32 rank;  /* by name among the candidates, 0..255; APPLY_NAT: added to `nat` */
    __s32 delta; /* APPLY_DELTA: added to `mine` */
};
struct staged {
    __u32 service;
    __u32 size;
    __u64 version; /* 0: unchanged */
    struct staged_slot slots[MAX_WORKLOADS];
};

struct listener_key {
    __u32 addr[4]; /* network byte order; IPv4 as ::ffff:a.b.c.d */
    __u32 port;    /* network byte order, as in struct bpf_sock_addr */
    __u32 protocol;
};
/* Where a listener's new connections go: to one service, or (shares > 0) to the services of the schedule in turn. */
struct listener {
    __u32 service;    /* shared out: the first one, which the clients' affinity is stored under */
    __u32 affinity_s; /* seconds of affinity to a workload after each connection; 0: none */
    __u64 position;   /* kernel: turns taken */
    __u32 shares;     /* turns of the schedule that are in use */
    __u32 flags;      /* LISTENER_PRESERVES_SRC */
    __u64 members[MEMBER_WORDS]; /* bit a service: is it in the schedule */
    __u16 schedule[SCHEDULE_SIZE];
};

/* The workload that a client was last placed on; a process of this host counts as the host itself. */
struct affinity_key {
    __u32 service;   /* of the listener, with AFFINITY_SHARED */
    __u32 client[4]; /* IPv4 as ::ffff:a.b.c.d; zero for a socket of this host that is bound to no address */
};
struct affinity {
    __u64 word; /* PLACED_* */
    __u64 seen; /* ns since boot */
};

/* Written by the loader and the controller only. */
struct config {
    __u64 netns_cookie; /* only sockets of this network namespace are treated */
    __u64 digest;       /* of the sources that are loaded, so that the loader need not compile them again */
    __u64 port_limit;   /* source ports towards one endpoint; 0: not known */
    __u64 sweep_before; /* iterator over the UDP flows: release what was last seen before (ns since boot); 0: none */
    __u32 overlay4;     /* this site's overlay addresses: a socket bound to one may leave the site */
    __u32 spare4;
    __u32 overlay6[4];
    __u64 spare[4];
};

/* What programs count beside the services. */
struct news {
    __u64 log_position; /* picks logged */
    __u64 suspensions;
    __u64 changes; /* of any count: the controller reads the services only when this moved */
    __u64 spare[1];
};

/* The cost of one side of a choice at the moment of the choice: perceived = path_cost + open / capacity. */
struct weighed {
    __u32 slot;
    __u32 path_cost;
    __u32 capacity; /* 0: there was none */
    __u32 open;
};

/* The placement of a socket, of one UDP flow of it, or of a flow of the LAN, and its receipt. */
struct placement {
    __u64 placed; /* PLACED_*; 0: nothing */
    __u64 placed_at; /* ns since boot */
    __u64 seen;      /* UDP flows: last datagram, ns since boot; flows of the LAN: their turn, see nat/admission/limits.h */
    __u32 listener[4];
    __u32 target[4]; /* as ::ffff:a.b.c.d where IPv4 */
    __u32 listener_port;
    __u32 target_port;
    __u32 protocol;
    __u32 reason;
    __u64 version;
    __u64 choice;
    struct weighed winner;
    struct weighed runner;
    __u32 need;    /* SLOT_*: what a workload had to have for this socket */
    __u32 prefer6;
    __u64 mapped;  /* TCP: this socket was once sent to a mapped address, see request_stay_mapped() */
    __u64 affinity; /* the placement word that the client had before, for workload_pick(); 0: nothing */
    __u32 passive; /* the socket is the workload's, accepted from a client of the LAN */
    __u32 preserves_src; /* 1: the LAN client's address is preserved to a workload with SLOT_PRESERVES_SRC */
};
/* A placement as it lies with a socket. User space cannot migrate socket storage, so there is room for what later versions
 * store with a connection. Each placement clears the words that its version does not know: 0 is "not said". */
struct socket_placement {
    struct placement placement;
    __u64 spare[SPARE_WORDS];
};
struct udp_flows {
    __u64 index; /* of the flow in use, see udp_flow_place() */
    struct socket_placement flow[UDP_FLOWS];
};
/* The same of the older layout, see placement/store.h. */
struct udp_flows_v1 {
    __u64 index;
    struct placement flow[UDP_FLOWS];
};

/* What iterators write for each placement: of a flow of the LAN the first, of a socket the second. */
struct placement_record {
    __u64 cookie;
    __u32 client[4]; /* IPv4 as ::ffff:a.b.c.d */
    __u32 client_port; /* host byte order */
    __u32 spare;
    struct placement placement;
};
struct socket_record {
    struct placement_record record;
    __u64 spare[SPARE_WORDS];
};

/* What a sweep of the flows finds: how many there are of each kind (KIND_*), and how many are half open. */
struct flow_sums {
    __u64 kinds[8];
    __u64 half_open;
    __u64 spare[7];
};

/* The pick log: everything that a pick among up to CLASS_SMALL slots was decided on, as seen under the lock. */
struct logged_slot {
    __u32 path_cost;
    __u32 capacity;
    __u32 others;
    __u32 flags;
    __u64 mine;
    __u64 last;
    __u32 suspended;
    __u32 generation;
};
struct logged_pick {
    __u64 sequence; /* 1 for the first pick; 0: empty */
    __u64 limit;
    __u64 version;
    __u64 choice;
    __u64 affinity; /* as in struct placement */
    __u32 service;
    __u32 need;
    __u32 winner; /* slot, MAX_WORKLOADS when there was none */
    __u32 runner;
    struct logged_slot slots[CLASS_SMALL];
};

#endif

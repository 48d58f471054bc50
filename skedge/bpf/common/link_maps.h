/* Structs and pinned maps of the packet programs on link devices. skedge/dataplane/ebpf/{packet_check,endpoints}.py
 * writes the maps.
 * NBO = network byte order, HBO = host byte order. A layout change takes a new versioned name. */
#ifndef SKEDGE_COMMON_LINK_MAPS_H
#define SKEDGE_COMMON_LINK_MAPS_H

#include "common/bytecode.h"
#include "common/verifier.h"

/* An address of either family: IPv4 lies in word 0, the other words are 0. */
struct address {
	__u32 word[4]; /* NBO */
};

/* What is the same for every link of this site. */
struct link_config {
	struct address overlay4;
	struct address overlay6;
	struct address prefix4; /* the overlay's IPv4 network, with its mask beside it */
	struct address mask4;
	struct address prefix6; /* a /48 */
	__u16 control_port; /* HBO, like all ports here */
	__u16 load_port;
	__u16 endpoint_low;
	__u16 endpoint_high;
	__u32 flags;	/* LINK_COOKIES_ALWAYS, LINK_YIELDS, LINK_LEFT, LINK_HOST_INSIDE; see port_is_ephemeral() */
};

#define LINK_COOKIES_ALWAYS 1 /* net.ipv4.tcp_syncookies is 2 */
#define LINK_YIELDS 2	      /* the other engine delivers and checks: what is not of a connection made before passes */
#define LINK_LEFT 4	      /* the other engine's open connections go on: their packets find no socket here */

#define LINK_HOST_INSIDE 8    /* the host has other addresses in the overlay's networks, so not all there is transit */
#define LINK_EPHEMERAL_LOW 16 /* bits 16 to 23: the first 256 ports that are all ephemeral; behind them, how many such */
#define LINK_EPHEMERAL_SPAN 24

#define LINK_L3 1   /* packets have no Ethernet header (WireGuard, TUN) */
#define LINK_PATH 8 /* bits 8 to 12: its number among the links that packets of a site may come by */

/* One link device: who is at its far end. */
struct link_entry {
	struct address own;
	struct address peer; /* link-local addresses of this site and of the neighbour */
	__u8 peer_mac[6];
	__u16 flags;
	__u32 ifindex; /* 0: the entry is free */
	__u32 programs[2]; /* the controller's memory: ids of what is attached, ingress and egress (0: nothing) */
};

/* An entry lies at its interface index, or at one of the next ones: an array costs no hash and no call. */
#define LINK_TABLE_SIZE 1024
#define LINK_PROBES 4

struct endpoint_key {
	__u16 port; /* HBO */
	__u8 protocol;
	__u8 spare;
};

#define NAME_SIZE 64

#define ENDPOINT_OFF_HOST 1 /* the workload is a LAN machine or container, not on this host */

/* The workload behind a published endpoint. The names are for people and for the controller's restart. */
struct endpoint {
	struct address host;
	__u16 port; /* HBO */
	__u8 v6;
	__u8 flags; /* ENDPOINT_* */
	__u8 spare[4];
	char site[NAME_SIZE];
	char connector[NAME_SIZE];
};

/* What is known of a port of this site's overlay addresses over TCP. */
#define MARK_PUBLISHED 1u /* controller: a published endpoint */
#define MARK_LOOKUP 2u	  /* program: its packets may need more than the kernel's own lookup, see link/fast_path.h */
#define MARK_NAT 4u	  /* controller: its workload is not on this host, its packets are of flows */
#define MARK_REWRITTEN 8u /* program: its workload is reached by rewriting */
#define MARK_FLAGS 0xffu
#define MARK_TIME_SHIFT 8 /* bits 8 to 31, program: when MARK_LOOKUP was last called for, in seconds since boot */

/* A workload's own address and port, as its socket sends; address all 0: bound to every address. */
struct source_key {
	struct address host;
	__u16 port; /* HBO */
	__u8 protocol;
	__u8 v6;
};

/* That the socket has sent a datagram to an endpoint: then, and only then, it may get one back unconnected. */
struct udp_client {
	__u64 since_ns;
	__u64 spare;
};

/* What is known of another site by its overlay address. */
struct site_address {
	__u32 paths; /* a bit for each device that packets from there may come by, see path_bit(); 0: nobody has told */
	__u32 spare;
};

BPF_TABLE_PINNED("array", __u32, struct link_config, link_config_v2, 1, PIN_DIR "/link_config_v2");
/* interface index (modulo the size) -> the link, see link_lookup() */
BPF_TABLE_PINNED("array", __u32, struct link_entry, link_table_v2, LINK_TABLE_SIZE, PIN_DIR "/link_table_v2");
/* reason code -> packets */
BPF_TABLE_PINNED("percpu_array", __u32, __u64, link_drops_v2, MAX_REASONS, PIN_DIR "/link_drops_v2");
/* published endpoint -> workload */
BPF_TABLE_PINNED("hash", struct endpoint_key, struct endpoint, endpoints_v1, 4096, PIN_DIR "/endpoints_v1");
/* port (HBO) -> MARK_*; a word a port, so that program and controller never write each other's */
BPF_TABLE_PINNED("array", __u32, __u32, endpoint_marks_v1, 65536, PIN_DIR "/endpoint_marks_v1");
/* workload's own address and port -> endpoint port, for replies whose source must be the endpoint */
BPF_TABLE_PINNED("hash", struct source_key, __u16, endpoint_sources_v1, 8192, PIN_DIR "/endpoint_sources_v1");

/* overlay address of another site of the network -> what is known of it */
BPF_TABLE_PINNED("hash", struct address, struct site_address, link_sites_v1, 8192, PIN_DIR "/link_sites_v1",
		 BPF_F_NO_PREALLOC);

/* bcc has no pinned form of its BPF_SK_STORAGE. */
struct udp_clients_table {
	int key;
	struct udp_client leaf;
	void *(*sk_storage_get)(void *, void *, int);
	int (*sk_storage_delete)(void *);
	__u32 flags;
};
__attribute__((PINNED_SECTION("sk_storage", PIN_DIR "/link_udp_clients_v1")))
struct udp_clients_table link_udp_clients_v1 = {.flags = BPF_F_NO_PREALLOC};
BPF_ANNOTATE_KV_PAIR(link_udp_clients_v1, int, struct udp_client);

#endif

/* LAN prefixes of sites: the clients whose source address is preserved on the way to another site are in them. And the
 * prefixes that are this host's own as a whole. */
#ifndef SKEDGE_COMMON_LAN_PREFIXES_H
#define SKEDGE_COMMON_LAN_PREFIXES_H

#ifndef MAX_PREFIXES
#define MAX_PREFIXES 4096
#endif
#define MAX_HOST_PREFIXES 16384

struct prefix_key {
    __u32 length;  /* bits */
    __u32 addr[4]; /* NBO; IPv4 as ::ffff:a.b.c.d */
};

struct prefix {
    __u32 flags; /* PREFIX_* */
    __u32 paths; /* a bit for each device that packets from there may come by, see path_bit(); 0: nobody has told */
};

#define PREFIX_HERE 1u /* its clients may connect to workloads of this site; else they may only pass through */
#define PREFIX_OWN 2u  /* addresses of this host: whoever announces them or what is around them, no packet goes there */
#define PREFIX_BOTH 4u /* with PREFIX_OWN: another site announces exactly the same */

#define WHOLE_ADDRESS 128
#define MAPPED_WORD 0xffff0000u /* third word of ::ffff:a.b.c.d on a little-endian machine */

/* What this site announces itself, read where a client connects to a listener that preserves source addresses. */
BPF_TABLE_PINNED("lpm_trie", struct prefix_key, struct prefix, lan_prefixes_v1, MAX_PREFIXES,
                 PIN_DIR "/lan_prefixes_v1", BPF_F_NO_PREALLOC);
/* What the others announce, while there is a route to it; and the addresses of this host. */
BPF_TABLE_PINNED("lpm_trie", struct prefix_key, struct prefix, link_prefixes_v1, MAX_PREFIXES,
                 PIN_DIR "/link_prefixes_v1", BPF_F_NO_PREALLOC);
/* What is the host's own and has no listener entries of its own: local routes (AnyIP) but loopback, and what it has of
 * addresses beyond the first ones. */
BPF_TABLE_PINNED("lpm_trie", struct prefix_key, struct prefix, host_prefixes_v2, MAX_HOST_PREFIXES,
                 PIN_DIR "/host_prefixes_v2", BPF_F_NO_PREALLOC);

#endif

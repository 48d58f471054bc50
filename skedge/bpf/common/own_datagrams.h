/* Whom the host's own UDP sockets have asked from a port that a UDP listener has too: the answers are theirs. */
#ifndef SKEDGE_COMMON_OWN_DATAGRAMS_H
#define SKEDGE_COMMON_OWN_DATAGRAMS_H

#define MAX_OWN_DATAGRAMS 16384 /* conversations; the one that is quiet for longest is forgotten */
#define OWN_DATAGRAMS_NS 120000000000ull /* RFC 4787: not less than 2 min */

/* The answer, as it comes in. */
struct own_datagram {
    __u32 from[4]; /* NBO; IPv4 as ::ffff:a.b.c.d */
    __u16 from_port; /* NBO */
    __u16 to_port;
};

/* The time of the last question, ns since boot. */
BPF_TABLE_PINNED("lru_hash", struct own_datagram, __u64, own_datagrams_v1, MAX_OWN_DATAGRAMS, PIN_DIR "/own_datagrams_v1");

#endif

/* What iterators write of each connection that stands still; dataplane/ebpf/stalled.py mirrors it. */
#ifndef SKEDGE_SOCKET_STALLED_H
#define SKEDGE_SOCKET_STALLED_H

#define STALLED_SENT 1        /* a socket's data was sent again, and not acknowledged */
#define STALLED_SEES_ERRORS 2 /* the same, and the program that has the socket would see what it is told */
#define STALLED_PUSHED 3      /* it waited to be sent for the first time, and has been sent now */
#define STALLED_FLOW 4        /* as the first, of a machine of the LAN */

/* From the sender's side. Addresses in network byte order, IPv4 as ::ffff:a.b.c.d. */
struct stalled_record {
    __u32 from[4];
    __u32 to[4];
    __u32 far[4]; /* where it leads in the overlay */
    __u16 from_port; /* host byte order */
    __u16 to_port;
    __u32 sequence; /* of the first byte that is not acknowledged */
    __u32 unanswered_ms; /* of a flow: from the last answer to what was sent last */
    __u8 what;      /* STALLED_* */
    __u8 backoff;   /* of a socket: how often its time-out has doubled */
    __u16 spare;
};

#endif

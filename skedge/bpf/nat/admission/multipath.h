/* Multipath TCP (RFC 8684): a further subflow of a connection that a listener's workload has. Its SYN names that
 * connection by a token that only the workload knows, so it must not be placed: it is reset, which ends nothing but the
 * subflow. The connection goes on with those that it has. */
#ifndef SKEDGE_NAT_ADMISSION_MULTIPATH_H
#define SKEDGE_NAT_ADMISSION_MULTIPATH_H

#define MULTIPATH_KIND 30
#define MULTIPATH_JOIN 1
#define MULTIPATH_SIZE 12 /* of the option in a SYN that joins */

struct tcp_options {
    __u8 byte[64]; /* what follows 40 is zero: the end of options */
};

/* Whether a SYN joins a connection. Most SYNs are known by the size of their options. */
INLINE int tcp_joins(struct __sk_buff *skb, const struct lan_packet *p)
{
    struct tcp_options options = {};
    __u64 at = 0, size, kind;
    __u8 byte = 0;

    if (bpf_skb_load_bytes(skb, p->l4 + 12, &byte, 1))
        return 0;
    size = ((byte >> 4) * 4 - TCP_OPTIONS) & 63;
    OPAQUE(size); /* or the compiler asks of the header's size what the verifier must know of this */
    if (size < MULTIPATH_SIZE || bpf_skb_load_bytes(skb, p->l4 + TCP_OPTIONS, &options, size))
        return 0;
    BLUR(skb, at);
    for (int i = 0; i < OPTIONS_MAX; i++) {
        kind = options.byte[at & 63];
        if (kind == MULTIPATH_KIND)
            return options.byte[(at + 2) & 63] >> 4 == MULTIPATH_JOIN;
        if (!kind)
            return 0;
        at += kind == 1 ? 1 : options.byte[(at + 1) & 63];
        if (at >= OPTIONS_MAX)
            return 0;
        BLUR(skb, at); /* else the verifier tells its ways through the options apart */
        at &= 63;
    }
    return 0;
}

#endif

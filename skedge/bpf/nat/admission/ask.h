/* The host's own input rules hold for what these programs would lead past them: before a flow is made, its first packet
 * goes in as any other packet does, with the host's rules all before it. A chain of ours behind theirs
 * (dataplane/nftables/accepted.py) sends a copy of what they let through over lo and drops the packet itself, so no
 * socket ever gets it. On lo, lan_asked opens the flow, and the copy goes back to the device that it came in by, now a
 * packet of a flow. What the rules drop has touched no table but the one below.
 *
 * The packet is known again by its priority (skb->priority): unlike a mark, the host's rules and routes do not look at
 * it. Whoever sets it elsewhere gains nothing: a copy counts only for a packet that was asked about here. */
#ifndef SKEDGE_NAT_ADMISSION_ASK_H
#define SKEDGE_NAT_ADMISSION_ASK_H

#define ASKING 0x736b6673u /* skb->priority, as chain and programs know it */
#define ASK_NS 1000000000ull /* a copy that comes later is none of ours; it takes microseconds */
#define ASKED_MAX 8192
#define CB_ACCEPTED 16 /* beside the length in skb->cb[CB_LINK]: the host's rules let the packet through */
#define CB_HOME 3      /* then: the device that it came in by */
#define MACS 12

/* Packets, in host_rules_counts_v1. */
#define HOST_RULES_ASKED 0
#define HOST_RULES_ACCEPTED 1
#define HOST_RULES_COUNTS 2

/* What of a flow's first packet gets lost or changed on the way round. */
struct asked {
    __u64 at;     /* ns since boot */
    __u32 device; /* that it came in by */
    __u8 hops;
    __u8 whole;   /* IPv4: must not be fragmented */
    __u8 macs[MACS];
    __u8 spare[6];
};

/* Written by the controller only: 1 when the host's rules are asked. */
BPF_TABLE_PINNED("array", __u32, __u32, host_rules_v1, 1, PIN_DIR "/host_rules_v1");
BPF_TABLE_PINNED("array", __u32, __u64, host_rules_counts_v1, HOST_RULES_COUNTS, PIN_DIR "/host_rules_counts_v1");
BPF_TABLE_PINNED("lru_hash", struct nat_key, struct asked, nat_asked_v1, ASKED_MAX, PIN_DIR "/nat_asked_v1");

INLINE void host_rules_count(__u32 what)
{
    __u64 *count = host_rules_counts_v1.lookup(&what);

    if (count)
        __sync_fetch_and_add(count, 1);
}

INLINE int host_rules_accepted(const struct __sk_buff *skb)
{
    return CB_GET(skb, CB_LINK) & CB_ACCEPTED;
}

INLINE int host_rules_are_honoured(void)
{
    __u32 zero = 0, *honoured = host_rules_v1.lookup(&zero);

    return honoured && *honoured;
}

/* Let the packet go in, to be judged. Returns the verdict. */
INLINE int host_rules_ask(struct __sk_buff *skb, struct lan_packet *p)
{
    struct asked asked = {.device = skb->ifindex, .hops = p->hops, .whole = p->whole};

    asked.at = bpf_ktime_get_ns();
    if (p->l3 && bpf_skb_load_bytes(skb, 0, asked.macs, MACS))
        return packet_refuse(REASON_MALFORMED);
    if (nat_asked_v1.update(&p->key, &asked))
        return packet_refuse(REASON_TABLE_FULL);
    host_rules_count(HOST_RULES_ASKED);
    skb->priority = ASKING;
    return TC_ACT_UNSPEC;
}

/* Give the copy back to the device that the packet came in by; so it also loses the way over lo that it has. */
INLINE int packet_send_home(struct __sk_buff *skb)
{
    return bpf_redirect(CB_GET(skb, CB_HOME), BPF_F_INGRESS);
}

#endif

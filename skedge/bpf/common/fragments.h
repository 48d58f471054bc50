/* Fragments of datagrams. The first one has the ports, so it is judged as a whole datagram is, and says where the others
 * go; those that come before it are dropped. What is put together is put together by the receiver: here nothing is kept
 * but a way for each datagram, the newest ones, for a few seconds. */
#ifndef SKEDGE_COMMON_FRAGMENTS_H
#define SKEDGE_COMMON_FRAGMENTS_H

#define FRAGMENT_WAYS 8192
#define FRAGMENT_SENDERS 4096
#define FRAGMENT_LIFE_NS 5000000000ull /* the pieces of one datagram come within milliseconds */
#define UDP_HEADER_LENGTH 8
#define DATAGRAM_LARGEST 65535

/* What a sender may have on the way that is not complete: receivers keep such pieces for 30 s, in the room that all of
 * their senders share (4 MiB, in Linux). A site sends for many, a machine of a LAN for itself. */
#define FRAGMENT_ROOM_SITE (1u << 20)
#define FRAGMENT_ROOM_CLIENT (1u << 18)
#define FRAGMENT_WAIT_NS 30000000000ull

/* What one fragment says. */
struct fragment {
	__u32 id;
	__u32 l4;   /* offset of what it carries */
	__u32 at;   /* which bytes of the datagram these are */
	__u32 size;
	__u8 more;
	__u8 protocol;
};

struct fragment_key {
	struct address from;
	struct address to;
	__u32 id;
	__u8 protocol;
	__u8 v6;
	__u8 leaves; /* sent by this host, not received */
	__u8 spare;
};

/* fragment_way.how */
#define FRAGMENT_PASSES 1  /* as it is */
#define FRAGMENT_REFUSED 2 /* as the first one was, for that reason */
#define FRAGMENT_TO 3	   /* to this address */
#define FRAGMENT_TO_LO 4   /* the same, over lo */
#define FRAGMENT_FROM 5	   /* from this address */
#define FRAGMENT_FLOW 6	   /* as the flow with these ports goes */
#define FRAGMENT_EARLY 7   /* the first one has not come yet */

struct fragment_way {
	struct address address;
	__u64 since;
	__u32 first_end; /* how far the first one goes */
	__u32 seen;	 /* bytes */
	__u32 total;	 /* 0 while the last one is missing */
	__u16 from_port; /* NBO */
	__u16 to_port;
	__u16 how;
	__u16 reason;
	__u32 spare;
};

/* Bytes that a sender has on the way; they run out as receivers forget them. */
struct fragment_debt {
	__u64 bytes;
	__u64 since;
};

BPF_TABLE_PINNED("lru_hash", struct fragment_key, struct fragment_way, fragment_ways_v1, FRAGMENT_WAYS,
		 PIN_DIR "/fragment_ways_v1");
BPF_TABLE_PINNED("lru_hash", struct address, struct fragment_debt, fragment_debts_v1, FRAGMENT_SENDERS,
		 PIN_DIR "/fragment_debts_v1");

/* Whether the sender of a fragment may have meant it: 0, or REASON_BAD_FRAGMENT. One that begins behind the UDP header
 * alone is refused, as RFC 3128 has it. */
INLINE int fragment_check(const struct fragment *f)
{
	if (!f->size || f->size > DATAGRAM_LARGEST || f->at + f->size > DATAGRAM_LARGEST)
		return REASON_BAD_FRAGMENT;
	if ((f->more && f->size & 7) || f->at == UDP_HEADER_LENGTH || (!f->at && f->size < UDP_HEADER_LENGTH))
		return REASON_BAD_FRAGMENT;
	return 0;
}

/* Read a fragment's headers; they have no options, no extension header but the one. Returns 0 or a reason. */
INLINE int fragment_load(struct __sk_buff *skb, __u32 l3, int v6, struct fragment *f)
{
	__u8 ip[IP6_LENGTH + FRAGMENT_HEADER];

	if (v6) {
		if (bpf_skb_load_bytes(skb, l3, ip, sizeof(ip)) || ip[6] != NEXT_FRAGMENT)
			return REASON_MALFORMED;
		f->l4 = l3 + IP6_LENGTH + FRAGMENT_HEADER;
		f->size = ((__u32)ip[4] << 8 | ip[5]) - FRAGMENT_HEADER;
		f->at = (__u32)ip[42] << 8 | (ip[43] & 0xf8);
		f->more = ip[43] & 1;
		f->protocol = ip[40];
		__builtin_memcpy(&f->id, ip + 44, 4);
	} else {
		if (bpf_skb_load_bytes(skb, l3, ip, IP4_LENGTH) || ip[0] != 0x45)
			return REASON_MALFORMED;
		f->l4 = l3 + IP4_LENGTH;
		f->size = ((__u32)ip[2] << 8 | ip[3]) - IP4_LENGTH;
		f->at = ((__u32)(ip[6] & 0x1f) << 8 | ip[7]) * 8;
		f->more = ip[6] & 0x20;
		f->protocol = ip[9];
		f->id = (__u32)ip[4] << 8 | ip[5];
	}
	if (f->size <= DATAGRAM_LARGEST && f->l4 + f->size > skb->len)
		return REASON_MALFORMED;
	return fragment_check(f);
}

/* Return the way of a fragment that is not the first one, and begins at ``at``. 0: there is none, *reason says why. */
INLINE struct fragment_way *fragment_way_lookup(struct fragment_key *key, __u32 at, int *reason)
{
	struct fragment_way *way = fragment_ways_v1.lookup(key);

	*reason = REASON_EARLY_FRAGMENT;
	if (!way || way->how == FRAGMENT_EARLY || bpf_ktime_get_ns() - way->since > FRAGMENT_LIFE_NS)
		return 0;
	*reason = REASON_BAD_FRAGMENT;
	return at < way->first_end ? 0 : way;
}

/* The first one: remember where the others go. */
INLINE void fragment_way_store(struct fragment_key *key, const struct fragment *f, struct fragment_way *way)
{
	way->since = bpf_ktime_get_ns();
	way->first_end = f->size;
	fragment_ways_v1.update(key, way);
}

/* Whether a fragment may go on to where it is put together: 0, or REASON_FRAGMENT where its sender has too much on the
 * way that is not complete. Two processors may both count a little less than they should. */
INLINE int fragment_admit(const struct fragment_key *key, const struct fragment *f, struct fragment_way *way,
			  __u32 room)
{
	struct fragment_debt fresh = {.since = bpf_ktime_get_ns()}, *debt;
	struct address from = key->from;
	__u64 gone;

	if (!f->at && !f->more)
		return 0;
	debt = fragment_debts_v1.lookup_or_try_init(&from, &fresh);
	if (!debt)
		return REASON_FRAGMENT;
	gone = (fresh.since - debt->since) / (FRAGMENT_WAIT_NS / room);
	if (gone) {
		debt->bytes -= gone < debt->bytes ? gone : debt->bytes;
		debt->since = fresh.since;
	}
	if (debt->bytes + f->size > room)
		return REASON_FRAGMENT;
	debt->bytes += f->size;
	way->seen += f->size;
	if (!f->more)
		way->total = f->at + f->size;
	if (way->total && way->seen >= way->total)
		debt->bytes -= way->seen < debt->bytes ? way->seen : debt->bytes;
	return 0;
}

#endif

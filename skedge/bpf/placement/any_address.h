/* Listeners on every address (*): what the kernel takes for this host's own. Its addresses have entries of their own,
 * which explicit listeners go before; all others share one entry a family, at the unspecified address. */
#ifndef SKEDGE_PLACEMENT_ANY_ADDRESS_H
#define SKEDGE_PLACEMENT_ANY_ADDRESS_H

static __always_inline int listener_key_is_loopback4(const struct listener_key *to)
{
    return !(to->addr[0] | to->addr[1]) && to->addr[2] == MAPPED_PREFIX &&
           (to->addr[3] & __builtin_bswap32(0xff000000)) == __builtin_bswap32(0x7f000000);
}

static __always_inline int address_is_of_host(const struct listener_key *to)
{
    struct prefix_key key = {.length = WHOLE_ADDRESS};

    key.addr[0] = to->addr[0];
    key.addr[1] = to->addr[1];
    key.addr[2] = to->addr[2];
    key.addr[3] = to->addr[3];
    return host_prefixes_v2.lookup(&key) != 0;
}

/* Return the listener on every address of this family, 0 for none. */
static __always_inline struct listener *listener_lookup_any(const struct listener_key *to)
{
    struct listener_key any = {.port = to->port, .protocol = to->protocol};

    if (!(to->addr[0] | to->addr[1]) && to->addr[2] == MAPPED_PREFIX)
        any.addr[2] = MAPPED_PREFIX;
    return listeners_v2.lookup(&any);
}

#endif

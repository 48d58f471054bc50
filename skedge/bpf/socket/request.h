/* Where a socket wants to go and what it can reach, read from the call and from the socket itself. */
#ifndef SKEDGE_SOCKET_H
#define SKEDGE_SOCKET_H

/* Where a socket wants to go, and what a workload must have for it. */
struct wish {
    struct listener_key to;
    __u32 need;    /* SLOT_* */
    int prefer6;
    int bound;     /* to an address that cannot leave the site */
    struct affinity_key client; /* the address that the socket is bound to, zero where it has none */
};

/* The destination as listener key; 0.0.0.0 and :: mean loopback, as in the kernel. */
static __always_inline void key4(struct bpf_sock_addr *ctx, struct listener_key *key)
{
    __u32 addr = ctx->user_ip4;

    key->addr[0] = key->addr[1] = 0;
    key->addr[2] = MAPPED_PREFIX;
    key->addr[3] = addr ? addr : __builtin_bswap32(0x7f000001);
    key->port = ctx->user_port & 0xffff;
    key->protocol = ctx->protocol;
}

static __always_inline void key6(struct bpf_sock_addr *ctx, struct listener_key *key)
{
    key->addr[0] = ctx->user_ip6[0];
    key->addr[1] = ctx->user_ip6[1];
    key->addr[2] = ctx->user_ip6[2];
    key->addr[3] = ctx->user_ip6[3];
    if (!(key->addr[0] | key->addr[1] | key->addr[2] | key->addr[3]))
        key->addr[3] = __builtin_bswap32(1);
    key->port = ctx->user_port & 0xffff;
    key->protocol = ctx->protocol;
}

/* Read one byte of the kernel's struct sock. The verifier allows no arithmetic on a socket pointer, only on numbers:
 * so the pointer is first copied to the number that it is. */
static __always_inline __u8 sock_byte(struct bpf_sock *sk, __u32 offset)
{
    struct bpf_sock *pointer = sk;
    __u64 number = 0;
    __u8 byte = 0;

    bpf_probe_read_kernel(&number, sizeof(number), &pointer);
    bpf_probe_read_kernel(&byte, sizeof(byte), (void *)(number + offset));
    return byte;
}

static __always_inline int v6only(struct bpf_sock *sk)
{
    return sock_byte(sk, OFF_V6ONLY_BYTE) >> OFF_V6ONLY_BIT & 1;
}

/* Whether bind(2) gave the source address; a connected UDP socket also has one, but from its last connect(2). */
static __always_inline int bound_by_user(struct bpf_sock *sk)
{
    return sock_byte(sk, OFF_USERLOCKS_BYTE) >> OFF_USERLOCKS_BIT & BINDADDR_LOCK;
}

static __always_inline int is_mapped(const __u32 *addr)
{
    return !addr[0] && !addr[1] && addr[2] == MAPPED_PREFIX;
}

/* Of a connect that ends before it was established: whether it was refused, or not answered (the SYN was sent again at
 * least once). A client that gives up at once, or an abort on purpose, says nothing about the workload. */
static __always_inline int unanswered(struct bpf_sock *sk)
{
    __u8 error = sock_byte(sk, OFF_SK_ERR);

    return error ? error != ERR_CONNABORTED : sock_byte(sk, OFF_TOTAL_RETRANS) != 0;
}

static __always_inline void no_client(struct wish *wish)
{
    struct affinity_key none = {};

    wish->client = none;
}

/* Say what an IPv4 source address allows. */
static __always_inline void bound4(const struct config *config, __u32 source, struct wish *wish)
{
    wish->client.client[2] = MAPPED_PREFIX;
    wish->client.client[3] = source;
    wish->need = SLOT_IN | SLOT_T4;
    wish->prefer6 = 0;
    wish->bound |= source != config->overlay4;
}

/* Fill in what an AF_INET socket needs. */
static __always_inline void wish4(struct bpf_sock *sk, const struct config *config, struct wish *wish)
{
    __u32 source = sk->src_ip4;

    no_client(wish);
    wish->need = SLOT_IN | SLOT_T4;
    wish->prefer6 = 0;
    wish->bound = sk->bound_dev_if != 0;
    if (source && bound_by_user(sk))
        bound4(config, source, wish);
    if (wish->bound)
        wish->need |= SLOT_LOCAL;
}

/* Fill in what an AF_INET6 socket needs that goes to an IPv6 or (mapped) an IPv4-mapped listener.
 * @pure6: the hook cannot turn an IPv6 destination into a mapped one (sendmsg6). */
static __always_inline void wish6(struct bpf_sock *sk, const struct config *config, int mapped, int pure6, struct wish *wish)
{
    __u32 source[4] = {sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3]};
    __u32 differs;

    no_client(wish);
    wish->need = SLOT_IN | SLOT_ANY;
    wish->prefer6 = !mapped;
    wish->bound = sk->bound_dev_if != 0;
    if (!mapped && (pure6 || v6only(sk)))
        wish->need = SLOT_IN | SLOT_T6;
    if ((source[0] | source[1] | source[2] | source[3]) && bound_by_user(sk)) {
        if (is_mapped(source)) {
            if (source[3])
                bound4(config, source[3], wish);
            else
                wish->need = SLOT_IN | SLOT_T4;
        } else {
            differs = (source[0] ^ config->overlay6[0]) | (source[1] ^ config->overlay6[1]) |
                      (source[2] ^ config->overlay6[2]) | (source[3] ^ config->overlay6[3]);
            wish->client.client[0] = source[0];
            wish->client.client[1] = source[1];
            wish->client.client[2] = source[2];
            wish->client.client[3] = source[3];
            wish->need = SLOT_IN | SLOT_T6;
            wish->prefer6 = 1;
            wish->bound |= differs != 0;
        }
    }
    if (wish->bound)
        wish->need |= SLOT_LOCAL;
}

/* A TCP socket that connected to a mapped address once keeps the kernel's IPv4 operations: a later connect of it to an
 * IPv6 address would send nothing, so it goes where IPv4 leads. */
static __always_inline void stay_mapped(struct wish *wish)
{
    wish->need = (wish->need & ~(SLOT_ANY | SLOT_T6)) | SLOT_T4;
    wish->prefer6 = 0;
}

/* Fill in what an AF_INET6 socket needs that sends a datagram to an IPv4-mapped listener: the hook is the IPv4 one. */
static __always_inline void wish_mapped(struct bpf_sock *sk, const struct config *config, struct wish *wish)
{
    __u32 mapped = sk->src_ip6[2], source = sk->src_ip6[3];

    no_client(wish);
    wish->need = SLOT_IN | SLOT_T4;
    wish->prefer6 = 0;
    wish->bound = sk->bound_dev_if != 0;
    if (mapped == MAPPED_PREFIX && source && bound_by_user(sk))
        bound4(config, source, wish);
    if (wish->bound)
        wish->need |= SLOT_LOCAL;
}

#endif

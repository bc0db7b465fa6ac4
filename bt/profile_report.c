/* SPDX-License-Identifier: MIT */
/* The listing of hot blocks. For each: what it is, then a line for each host instruction, beside the first one made
 * from a guest instruction that instruction; samples in front of both. What names earlier guest instructions again is
 * another round of a loop, or behind the block's last one the cold parts, where the fast path of a memory access did
 * not do. */
#include "bt/profile_internal.h"

#include "decoder/listing.h"

#include <stdlib.h>
#include <string.h>

static uint64_t total_of(const struct profile_block *b)
{
    return b->own + b->called;
}

static int hotter(const void *a, const void *b)
{
    uint64_t x = total_of(a), y = total_of(b);
    return x < y ? 1 : x > y ? -1 : 0;
}

static bool same_code(const struct profile_block *a, const struct profile_block *b)
{
    return a->eip == b->eip && a->lin == b->lin && a->mode == b->mode;
}

/* The samples by block, hottest first. *count: how many. NULL when out of memory. */
static struct profile_block *gather(struct bt_vcpu *v, size_t *count)
{
    const struct bt_profile *p = v->profile;
    struct bt_cache *c = v->cache;
    uint32_t *place = calloc(c->block_count, sizeof *place); /* of a block in the list, from 1 */
    size_t max = p->kept_count, n = 0;
    for (unsigned i = 0; i < PROFILE_HITS; i++)
        max += p->hits[i].at != 0;
    struct profile_block *list = calloc(max + 1, sizeof *list);
    if (!place || !list) {
        free(place);
        free(list);
        return NULL;
    }
    for (unsigned i = 0; i < PROFILE_HITS; i++) {
        const struct profile_hit *h = &p->hits[i];
        const struct bt_block *b = h->at ? bt_cache_block_at(c, (uintptr_t)c->exec_view + h->at - !h->own) : NULL;
        if (!b)
            continue;
        uint32_t index = (uint32_t)(b - c->blocks);
        if (!place[index]) {
            const struct bt_page *page = &c->pages[b->page];
            list[n] = (struct profile_block){
                .eip = b->eip, .lin = page->lin << PAGE_SHIFT | b->offset, .mode = page->mode, .block = index};
            place[index] = (uint32_t)++n;
        }
        list[place[index] - 1].own += h->own;
        list[place[index] - 1].called += h->called;
    }
    free(place);
    size_t live = n;
    for (size_t i = 0; i < p->kept_count; i++) {
        const struct profile_block *k = &p->kept[i];
        size_t at = 0;
        while (at < live && !same_code(&list[at], k))
            at++;
        if (at == live) {
            list[n++] = *k;
        } else {
            list[at].own += k->own;
            list[at].called += k->called;
        }
    }
    qsort(list, n, sizeof *list, hotter);
    *count = n;
    return list;
}

void bt_profile_flushed(struct bt_vcpu *v)
{
    struct bt_profile *p = v->profile;
    size_t count;
    struct profile_block *list = p ? gather(v, &count) : NULL;
    if (!list)
        return;
    for (size_t i = 0; i < count; i++)
        list[i].block = 0;
    free(p->kept);
    p->kept = list;
    p->kept_count = count;
    memset(p->hits, 0, sizeof p->hits);
}

/* ---- the listing ---- */

struct report {
    struct bt_vcpu *v;
    FILE *out;
    struct profile_hit *hits; /* by address */
    size_t hit_count;
};

static int by_address(const void *a, const void *b)
{
    uint32_t x = ((const struct profile_hit *)a)->at, y = ((const struct profile_hit *)b)->at;
    return x < y ? -1 : x > y ? 1 : 0;
}

static bool sort_hits(struct report *r)
{
    const struct bt_profile *p = r->v->profile;
    size_t n = 0;
    for (unsigned i = 0; i < PROFILE_HITS; i++)
        n += p->hits[i].at != 0;
    r->hits = calloc(n + 1, sizeof *r->hits);
    for (unsigned i = 0; r->hits && i < PROFILE_HITS; i++)
        if (p->hits[i].at)
            r->hits[r->hit_count++] = p->hits[i];
    if (r->hits)
        qsort(r->hits, r->hit_count, sizeof *r->hits, by_address);
    return r->hits;
}

/* Samples at [from, to), or in what returns to (from, to]. */
static uint64_t hits_at(const struct report *r, size_t from, size_t to, bool called)
{
    size_t low = 0, high = r->hit_count;
    uint64_t sum = 0;
    from += called;
    to += called;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (r->hits[mid].at < from)
            low = mid + 1;
        else
            high = mid;
    }
    for (; low < r->hit_count && r->hits[low].at < to; low++)
        sum += called ? r->hits[low].called : r->hits[low].own;
    return sum;
}

static void print_count(FILE *out, uint64_t n)
{
    if (n)
        fprintf(out, "%7llu ", (unsigned long long)n);
    else
        fprintf(out, "        ");
}

/* The guest instruction of a record as text. */
static void guest_text(struct bt_vcpu *v, const struct bt_block *b, unsigned offset, char *text, size_t size)
{
    const struct bt_page *page = &v->cache->pages[b->page];
    uint8_t bytes[15];
    size_t n = 0;
    for (unsigned at = b->offset + offset; n < sizeof bytes && at < (unsigned)b->offset + b->length; n++, at++) {
        uint64_t gfn = at < PAGE_SIZE ? page->gfn : b->second_gfn;
        const uint8_t *host = gfn < v->mem->page_count ? memory_page(v->mem, gfn).read : NULL;
        if (!host)
            break;
        bytes[n] = host[at & PAGE_MASK];
    }
    struct insn insn;
    char body[96];
    uint64_t pc = b->eip + offset;
    if (insn_decode(&insn, bytes, n, (enum insn_mode)(page->mode & BT_MODE_CODE_MASK)) <= 0)
        snprintf(text, size, "%llx  (unreadable)", (unsigned long long)pc);
    else
        snprintf(text, size, "%llx  %s", (unsigned long long)pc, insn_format(&insn, pc, body, sizeof body));
}

/* Host code [from, to) of a block, offsets from its entry; guest: what stands beside the first line. */
static void print_range(const struct report *r, const struct bt_block *b, uint32_t from, uint32_t to, const char *guest)
{
    const struct bt_cache *c = r->v->cache;
    FILE *out = r->out;
    size_t base = b->entry - (uintptr_t)c->exec_view;
    print_count(out, guest[0] ? hits_at(r, base + from, base + to, false) : 0);
    for (uint32_t at = from; at < to;) {
        char text[160];
        size_t n = listing_host_insn(c->exec_view + base + at, to - at, b->entry + at, text, sizeof text);
        if (at != from)
            print_count(out, 0);
        fprintf(out, "%-52s|", at == from ? guest : "");
        print_count(out, hits_at(r, base + at, base + at + n, false));
        fprintf(out, "%s", text);
        uint64_t called = hits_at(r, base + at, base + at + n, true);
        if (called)
            fprintf(out, "   ; %llu in what it calls", (unsigned long long)called);
        fputc('\n', out);
        at += (uint32_t)n;
    }
}

static void print_code(const struct report *r, const struct bt_block *b)
{
    const struct bt_insn_record *record = &r->v->cache->records[b->first_record];
    char text[160], before[160] = "";
    uint32_t first = b->record_count ? record[0].host_offset : b->size;
    if (first)
        print_range(r, b, 0, first, "(entry: anything to do?)");
    for (uint32_t i = 0; i < b->record_count; i++) {
        uint32_t end = i + 1 < b->record_count ? record[i + 1].host_offset : b->size;
        guest_text(r->v, b, record[i].guest_offset, text, sizeof text);
        bool again = !strcmp(text, before);
        if (record[i].host_offset < end)
            print_range(r, b, record[i].host_offset, end, again ? "" : text);
        memcpy(before, text, sizeof before);
    }
}

static unsigned long long permille(uint64_t part, uint64_t whole)
{
    return whole ? (part * 1000 + whole / 2) / whole : 0;
}

static void print_block(const struct report *r, const struct profile_block *h, unsigned rank, uint64_t total)
{
    static const char *const widths[] = {
        [INSN_MODE_16] = "16-bit", [INSN_MODE_32] = "32-bit", [INSN_MODE_64] = "64-bit"};
    const struct bt_cache *c = r->v->cache;
    FILE *out = r->out;
    bool user = bt_mode_user(h->mode);
    unsigned long long share = permille(total_of(h), total);
    fprintf(out, "\n%u. guest %llx (linear %llx), %s %s code: %llu.%llu%%, %llu samples in it, %llu in C for it\n",
            rank, (unsigned long long)h->eip, (unsigned long long)h->lin, widths[h->mode & BT_MODE_CODE_MASK],
            user ? "user" : "supervisor", share / 10, share % 10, (unsigned long long)h->own,
            (unsigned long long)h->called);
    if (!h->block) {
        fprintf(out, "   (not in the code cache any more)\n");
        return;
    }
    const struct bt_block *b = &c->blocks[h->block];
    fprintf(out, "   frame %llx, %u guest bytes, %u host bytes%s\n", (unsigned long long)c->pages[b->page].gfn,
            b->length, b->size, b->dead ? "; the guest has changed the code since" : "");
    print_code(r, b);
}

void bt_profile_report(struct bt_vcpu *v, FILE *out, unsigned count)
{
    const struct bt_profile *p = v->profile;
    size_t n;
    struct profile_block *list = p ? gather(v, &n) : NULL;
    struct report r = {.v = v, .out = out};
    uint64_t total = 0;
    if (!list || !sort_hits(&r)) {
        free(list);
        return;
    }
    for (unsigned i = 0; i < BT_PHASES; i++)
        total += p->samples[i];
    fprintf(out, "%llu samples, about one a millisecond of running; the %zu hottest of %zu blocks seen\n",
            (unsigned long long)total, n < count ? n : (size_t)count, n);
    if (p->lost)
        fprintf(out, "%llu samples found no room\n", (unsigned long long)p->lost);
    for (size_t i = 0; i < n && i < count; i++)
        print_block(&r, &list[i], (unsigned)i + 1, total);
    free(r.hits);
    free(list);
}

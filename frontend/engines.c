/* SPDX-License-Identifier: MIT */
#include "frontend/engines.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The engines that are built in. KVM's goes here. */
static const struct {
    enum engine_choice choice;
    const struct engine *engine;
} table[] = {
    {ENGINE_CHOICE_BT, &engine_bt},
};

static const struct engine *find(enum engine_choice choice)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].choice == choice)
            return table[i].engine;
    return NULL;
}

enum kvm_node engines_kvm_node(char *text, size_t text_len)
{
    struct stat st;
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        close(fd);
        snprintf(text, text_len, "/dev/kvm is there");
        return KVM_NODE_PRESENT;
    }
    int error = errno;
    if (error == ENOENT) {
        snprintf(text, text_len, "no /dev/kvm");
        return KVM_NODE_MISSING;
    }
    if ((error == EACCES || error == EPERM) && stat("/dev/kvm", &st) == 0) {
        struct group *g = getgrgid(st.st_gid);
        if ((st.st_mode & 060) == 060 && st.st_gid != 0)
            snprintf(text, text_len, "no permission for /dev/kvm, become a member of group %s", g ? g->gr_name : "kvm");
        else
            snprintf(text, text_len, "no permission for /dev/kvm");
        return KVM_NODE_FORBIDDEN;
    }
    snprintf(text, text_len, "/dev/kvm: %s", strerror(error));
    return KVM_NODE_BROKEN;
}

const struct engine *engines_choose(enum engine_choice choice, char *note, size_t note_len, char *err, size_t err_len)
{
    char node[160];
    engines_kvm_node(node, sizeof node);
    if (choice == ENGINE_CHOICE_BT) {
        snprintf(note, note_len, "asked for");
        return find(choice);
    }
    if (choice == ENGINE_CHOICE_KVM) {
        const struct engine *e = find(choice);
        if (!e)
            snprintf(err, err_len, "--engine kvm: not supported yet (%s); --engine bt works without it", node);
        snprintf(note, note_len, "asked for");
        return e;
    }
    snprintf(note, note_len, "%s%s", node,
             strncmp(node, "/dev/kvm is", 11) ? "" : ", but the kvm engine is not supported yet");
    return find(ENGINE_CHOICE_BT);
}

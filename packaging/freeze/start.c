// The beginning of the single executable: what is Rust alone is entered at once, everything else through
// PyInstaller's bootloader, which finds the modules below already inside.

#include <Python.h>

#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "frozen_start.h"

// The Rust half's own programs; returns the exit code.
int limpet_enter(int count, char *const *words);
// PyInstaller's `main`, compiled under this name.
int bootloader_main(int argc, char **argv);

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__cffi_backend(void);

// A shared object, compressed, and the length that it has as a file.
struct object {
    const Bytef *packed;
    uLong packed_bytes;
    uLong bytes;
};
// That of orjson as its wheel has it, behind those that it needs and the device may not have.
#include "objects.h"
enum { OBJECTS = sizeof objects / sizeof *objects };

// Returns a file in memory with the object in it, or -1.
static int unpack(const struct object *object)
{
    int fd = memfd_create("limpet", MFD_CLOEXEC);
    if (fd < 0)
        return -1;
    uLongf bytes = object->bytes;
    void *place = MAP_FAILED;
    if (ftruncate(fd, (off_t)bytes) == 0)
        place = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (place != MAP_FAILED) {
        int told = uncompress(place, &bytes, object->packed, object->packed_bytes);
        munmap(place, object->bytes);
        if (told == Z_OK)
            return fd;
    }
    close(fd);
    return -1;
}

// Loads orjson from memory: glibc maps a shared object only from a file, and this is one without a
// file system.
static PyObject *load_orjson(void)
{
    void *loaded = NULL;
    int fds[OBJECTS], count = 0;
    do {
        fds[count] = unpack(&objects[count]);
        char path[32];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fds[count]);
        loaded = fds[count] < 0 ? NULL : dlopen(path, RTLD_NOW | RTLD_LOCAL);
        count++;
    } while (loaded != NULL && count < OBJECTS);
    // Only now: what glibc has loaded it knows by its path, and the next file would get the same.
    while (count > 0)
        close(fds[--count]);
    PyObject *(*init)(void) = NULL;
    if (loaded != NULL)
        init = (PyObject *(*)(void))dlsym(loaded, "PyInit_orjson");
    if (init == NULL) {
        const char *cause = dlerror();
        PyErr_SetString(PyExc_ImportError, cause != NULL ? cause : "orjson cannot be unpacked");
        return NULL;
    }
    return init();
}

int main(int argc, char **argv)
{
    if (argc > 1 && (strcmp(argv[1], "native") == 0 || strcmp(argv[1], "inspect") == 0)) {
        // As Rust's own `main` begins: writing to a closed pipe is an error and not the end.
        signal(SIGPIPE, SIG_IGN);
        return limpet_enter(argc - 1, argv + 1);
    }

    PyImport_FrozenModules = frozen_start;
    if (PyImport_AppendInittab("limpet.native._core", PyInit__core) != 0 ||
        PyImport_AppendInittab("_cffi_backend", PyInit__cffi_backend) != 0 ||
        PyImport_AppendInittab("orjson.orjson", load_orjson) != 0) {
        fputs("cannot start limpet: there is no memory for its modules (it ends)\n", stderr);
        return 71;
    }
    return bootloader_main(argc, argv);
}

// The beginning of the single executable: what is Rust alone is entered at once, everything else through
// PyInstaller's bootloader, which finds the modules below already inside.

#include <Python.h>

#include <dlfcn.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
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

// The shared object of orjson as its wheel has it, compressed, and its length.
extern const Bytef limpet_orjson[], limpet_orjson_end[];
extern const uint32_t limpet_orjson_bytes;

// Puts orjson into the file `fd`, which has its length; whether that went well.
static bool unpack_orjson(int fd)
{
    uLongf size = limpet_orjson_bytes;
    void *place = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (place == MAP_FAILED)
        return false;
    int told = uncompress(place, &size, limpet_orjson, (uLong)(limpet_orjson_end - limpet_orjson));
    munmap(place, limpet_orjson_bytes);
    return told == Z_OK;
}

// Loads orjson from memory: glibc maps a shared object only from a file, and this is one without a
// file system.
static PyObject *load_orjson(void)
{
    int fd = memfd_create("orjson", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, limpet_orjson_bytes) != 0 || !unpack_orjson(fd)) {
        PyErr_SetFromErrno(PyExc_OSError);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    close(fd);
    PyObject *(*init)(void) = NULL;
    if (object != NULL)
        init = (PyObject *(*)(void))dlsym(object, "PyInit_orjson");
    if (init == NULL) {
        PyErr_SetString(PyExc_ImportError, dlerror());
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

/* The compiler of this build, in words. */
#ifndef TINYGPT_BUILD_H
#define TINYGPT_BUILD_H

#define TINYGPT_TEXT_(x) #x
#define TINYGPT_TEXT(x) TINYGPT_TEXT_(x)  /* two steps, so that a macro gives its value and not its name */

/* clang also says that it is gcc 4.2, so it is asked first. */
#if defined(__clang__)
#define TINYGPT_COMPILER "clang " TINYGPT_TEXT(__clang_major__) "." TINYGPT_TEXT(__clang_minor__) "." \
    TINYGPT_TEXT(__clang_patchlevel__)
#elif defined(__GNUC__)
#define TINYGPT_COMPILER "gcc " TINYGPT_TEXT(__GNUC__) "." TINYGPT_TEXT(__GNUC_MINOR__) "." \
    TINYGPT_TEXT(__GNUC_PATCHLEVEL__)
#else
#define TINYGPT_COMPILER "another compiler"
#endif

static inline const char* build_compiler(void) { return TINYGPT_COMPILER; }

#endif

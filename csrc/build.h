/* Name and version of the compiler of this build, as a string. */
#ifndef TINYGPT_BUILD_H
#define TINYGPT_BUILD_H

#define TINYGPT_TEXT_(x) #x
#define TINYGPT_TEXT(x) TINYGPT_TEXT_(x)  /* two steps, so that a macro is expanded before it becomes a string */

/* clang also defines __GNUC__ (as gcc 4.2), so it is tested first. */
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

/* What the library exports; nothing else is visible. */
#ifndef BRIM_API_H
#define BRIM_API_H

#ifndef BRIM_API
#define BRIM_API __attribute__((visibility("default")))
#endif

#endif

/* The sources of the report page as text: the Makefile turns report/page/ into lists of bytes. */
#include "html_.h"

static const unsigned char html[] = {
#include "report/page/page.html.inc"
};
static const unsigned char css[] = {
#include "report/page/page.css.inc"
};
static const unsigned char js[] = {
#include "report/page/page.js.inc"
};

static const unsigned char pytorch[] = {
#include "report/page/page.pytorch.inc"
};

const PageText page_html_ = {(const char *)html, sizeof html};
const PageText page_css_ = {(const char *)css, sizeof css};
const PageText page_js_ = {(const char *)js, sizeof js};
const PageText page_pytorch_ = {(const char *)pytorch, sizeof pytorch};

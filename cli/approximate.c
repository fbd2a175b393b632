/* --approximate: a model of a family that is not read, planned as one of a family that is and differs little.
 * All that is printed says so, and by how many bytes the plan can be wrong. */
#include <inttypes.h>
#include <stdlib.h>

#include "lora.h"

/* Of a trained parameter: weight, gradient, fp32 master and two states; of one that is only read. */
enum { TRAINED_BYTES = 4 + 4 + 4 + 8, READ_BYTES = 4 };

int is_approximate(const Options *o)
{
    return o->near.type != NULL;
}

const char *approximate_tag(const Options *o)
{
    return is_approximate(o) ? "APPROXIMATE  " : "";
}

/* Beside what is kept there is a layer's gradient of it at a time; inference has a layer's at a time alone.
 */
uint64_t approximate_bytes(const Options *o)
{
    const IoApproximation *a = &o->near;
    int trained = !o->inference && !has_adapters(o), layers = nn_preset_sizes(&o->preset).layers;
    const Precision *precision = precision_by_name(o->precision);
    DType type = o->inference || !precision ? DTYPE_F32 : precision->activations;
    uint64_t numbers = (uint64_t)a->kept / (uint64_t)layers + 1 + (o->inference ? 0 : (uint64_t)a->kept);
    uint64_t tokens = (uint64_t)o->batch * (uint64_t)(o->seq ? o->seq : nn_preset_max_seq(&o->preset));
    return is_approximate(o) ? (uint64_t)llabs(a->parameters) * (trained ? TRAINED_BYTES : READ_BYTES) +
                                   (a->kept ? numbers * tokens * (uint64_t)dtype_bytes(type, 1, 1) : 0)
                             : 0;
}

static void say_parameters(LeverText *out, int64_t parameters)
{
    if (parameters)
        lever_add(out, "has %s parameters %s", report_count(llabs(parameters)).text,
                  parameters > 0 ? "more" : "fewer");
    else
        lever_add(out, "has as many parameters");
}

void approximate_print(const Options *o)
{
    const IoApproximation *a = &o->near;
    LeverText out = {""};
    SayLine line = {""};
    if (!is_approximate(o) || option_varies(o, "--model"))
        return;
    line_add(&line, "APPROXIMATE: %s is planned as %s: %s.", a->type, a->as, a->differs);
    say_line(&line);
    say_parameters(&out, a->parameters);
    if (a->kept)
        lever_add(&out, ", and training it keeps at most %s numbers a token more or fewer",
                  report_count(a->kept).text);
    uint64_t bytes = approximate_bytes(o);
    line = (SayLine){""};
    if (bytes)
        line_add(&line, "It %s: at batch %d x seq %d within %s of this plan.", out.text, o->batch, o->seq,
                 report_size(bytes).text);
    else
        line_add(&line, "It %s, and needs the same.", out.text);
    say_line(&line);
}

void approximate_json(json_t *object, const Options *o)
{
    const IoApproximation *a = &o->near;
    if (is_approximate(o))
        json_object_set_new(
            object, "approximate",
            json_pack("{s:s, s:s, s:s, s:I, s:I, s:I}", "model_type", a->type, "planned_as", a->as, "differs",
                      a->differs, "parameters_more", (json_int_t)a->parameters, "kept_per_token_at_most",
                      (json_int_t)a->kept, "bytes_at_most", (json_int_t)approximate_bytes(o)));
}

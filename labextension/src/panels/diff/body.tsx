import type { TranslationBundle } from '@jupyterlab/translation';
import { HTMLSelect } from '@jupyterlab/ui-components';
import React from 'react';
import type { IPoint } from '../../tokens';
import { age, nameOf } from '../../words';
import type { DiffModel, IChoice } from './model';
import { keyOf } from './model';
import { Sections } from './sections';

interface IProps {
  readonly model: DiffModel;
  readonly trans: TranslationBundle;
}

export function DiffBody({ model, trans }: IProps): React.ReactElement {
  const choices = model.choices;
  const running = model.comparison.kind === 'running';
  return (
    <>
      <form
        className="jp-VSandbox-diffHead"
        onSubmit={event => {
          event.preventDefault();
          void model.compare();
        }}
      >
        <label>
          {trans.__('From')}
          <Choice
            value={model.before}
            choices={choices}
            model={model}
            trans={trans}
            choose={point => {
              model.choose('before', point);
            }}
          />
        </label>
        <label>
          {trans.__('to')}
          <Choice
            value={model.after}
            choices={choices}
            model={model}
            trans={trans}
            choose={point => {
              model.choose('after', point);
            }}
          />
        </label>
        <button
          type="submit"
          className="jp-VSandbox-button jp-mod-primary"
          disabled={running || keyOf(model.before) === keyOf(model.after)}
        >
          {trans.__('Compare')}
        </button>
      </form>
      <Outcome model={model} trans={trans} />
    </>
  );
}

function Choice(
  props: IProps & {
    readonly value: IPoint;
    readonly choices: readonly IChoice[];
    choose(point: IPoint): void;
  }
): React.ReactElement {
  const { value, choices, model, trans } = props;
  const { sandboxes } = model.store;
  const words = ({ point, snapshot }: IChoice) => {
    const sandbox = sandboxes.get(point.sandbox);
    const name = sandbox ? nameOf(sandbox) : point.sandbox;
    return snapshot
      ? trans.__(
          '%1 @ %2 (%3)',
          name,
          snapshot.name,
          age(snapshot.created, trans)
        )
      : trans.__('%1 as it is now', name);
  };
  return (
    <HTMLSelect
      value={keyOf(value)}
      onChange={event => {
        const chosen = choices.find(({ key }) => key === event.target.value);
        if (chosen) {
          props.choose(chosen.point);
        }
      }}
    >
      {choices.map(choice => (
        <option key={choice.key} value={choice.key}>
          {words(choice)}
        </option>
      ))}
    </HTMLSelect>
  );
}

function Outcome({ model, trans }: IProps): React.ReactElement | null {
  const { comparison } = model;
  switch (comparison.kind) {
    case 'none':
      return (
        <p className="jp-VSandbox-empty">
          {trans.__(
            'Choose two moments. To look into a snapshot for the first time, a copy of its machine runs for some seconds.'
          )}
        </p>
      );
    case 'cancelled':
      return <p className="jp-VSandbox-empty">{trans.__('Cancelled.')}</p>;
    case 'failed':
      return (
        <p className="jp-VSandbox-warning" role="alert">
          {comparison.reason}
        </p>
      );
    case 'running':
      return (
        <div className="jp-VSandbox-waiting" role="status">
          <progress aria-label={trans.__('Comparing')} />
          <span>
            {comparison.operation?.progress?.message || trans.__('comparing…')}
          </span>
          {comparison.operation?.cancellable ? (
            <button
              type="button"
              className="jp-VSandbox-button"
              onClick={() => void model.cancel()}
            >
              {trans.__('Cancel')}
            </button>
          ) : null}
        </div>
      );
    case 'done':
      return <Sections difference={comparison.difference} trans={trans} />;
  }
}
